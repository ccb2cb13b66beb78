"""The parsing process, from outside: started afresh, watched by the clock, replaced when it has died or grown old."""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apps
from apps.core.errors import AppError, InternalError, InvalidValue
from apps.rag.parsing.formats import unreadable
from apps.rag.parsing.process_limits import OUT_OF_MEMORY, OUT_OF_TIME
from apps.rag.records import Limits

ROOT = Path(next(iter(apps.__path__))).parent
LONGEST_LINE = 2**22
# a process keeps what its files leave behind
FILES_A_PROCESS = 100
START_SECONDS = 60
IDLE_SECONDS = 10
CLOCK = 3
"""By the clock a file may take so many times its CPU seconds."""


class Sandbox:
    """One parsing process at a time; one file at a time."""

    def __init__(self, limits: Limits, tokenizer: Path | None) -> None:
        self._limits = limits
        self._tokenizer = tokenizer
        self._process: asyncio.subprocess.Process | None = None
        self._files = 0
        self._used = 0.0

    async def parse(self, path: Path, name: str, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Tells ``heard`` of each page and chunk at once; returns what the worker says of the whole file.

        Raises InvalidValue where the file cannot be read.
        """
        process, finished, event = await self._ready(), False, dict[str, Any]()
        self._used = time.monotonic()
        try:
            async with asyncio.timeout(self._limits.parse_seconds * CLOCK):
                await _tell(process, {"path": str(path), "name": name})
                while not finished:
                    event = await _event(process)
                    if not event:
                        raise await self._why_it_died(process)
                    finished = "error" in event or "done" in event
                    if not finished:
                        on_event(event)
        except TimeoutError:
            raise unreadable("It takes longer to read than is allowed") from None
        finally:
            if not finished:
                await self.aclose()
        if "error" in event:
            raise InvalidValue(event["error"]["message"], field=event["error"]["field"])
        done: dict[str, Any] = event["done"]
        return done

    async def aclose(self) -> None:
        process, self._process, self._files = self._process, None, 0
        if process is not None:
            if process.returncode is None:
                process.kill()
            # its last words, too: a transport that is not read to its end is a warning
            await process.communicate()

    async def retire_idle(self) -> None:
        """End a process that is not needed now."""
        if self._process is not None and time.monotonic() - self._used > IDLE_SECONDS:
            await self.aclose()

    async def _ready(self) -> asyncio.subprocess.Process:
        if self._files >= FILES_A_PROCESS:
            await self.aclose()
        if self._process is None:
            self._process = await self._start()
        self._files += 1
        return self._process

    async def _start(self) -> asyncio.subprocess.Process:
        limits = self._limits
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "apps.rag.parsing.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=ROOT,
            env=_environment(),
            limit=LONGEST_LINE,
            # a Ctrl-C in the terminal is for the parent
            start_new_session=True,
        )
        options = {
            "memory": limits.parse_memory,
            "seconds": limits.parse_seconds,
            "chars": limits.text_chars,
            "tokens": limits.chunk_tokens,
            "overlap": int(limits.chunk_tokens * limits.chunk_overlap),
            "tokenizer": str(self._tokenizer) if self._tokenizer else None,
            "ocr": ocr_of(limits),
        }
        self._process = process
        try:
            async with asyncio.timeout(START_SECONDS):
                await _tell(process, options)
                if not await _event(process):
                    raise InternalError("The parsing process does not start", details={"exit": await process.wait()})
        except BaseException:
            await self.aclose()
            raise
        return process

    async def _why_it_died(self, process: asyncio.subprocess.Process) -> AppError:
        code = await process.wait()
        out_of_time = {OUT_OF_TIME, -getattr(signal, "SIGXCPU", 0) or OUT_OF_TIME}
        if code in out_of_time:
            return unreadable("It takes longer to read than is allowed")
        if code == OUT_OF_MEMORY:
            return unreadable("It needs more memory than is allowed")
        return unreadable("Reading it ended the process that read it: out of memory, or damaged")


def ocr_of(limits: Limits) -> dict[str, Any]:
    """How pictures are recognised, or why not."""
    command = shutil.which("tesseract") if limits.ocr else None
    reason = "RAG_OCR is off" if not limits.ocr else "tesseract is not installed here" if command is None else ""
    return {"command": command, "languages": limits.ocr_languages, "reason": reason}


def _environment() -> dict[str, str]:
    """No key of the service; and no thread pools, whose stacks count as memory."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP", "TMP", "LANG") if name in os.environ}
    single = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "1"}
    return {**kept, **single, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}


async def _tell(process: asyncio.subprocess.Process, order: dict[str, Any]) -> None:
    assert process.stdin is not None  # noqa: S101 - it was opened with pipes
    process.stdin.write(json.dumps(order).encode() + b"\n")
    try:
        await process.stdin.drain()
    except ConnectionError:
        # it has died: what is read next says so
        return


async def _event(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """The next line; empty where the process has ended."""
    assert process.stdout is not None  # noqa: S101 - it was opened with pipes
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        return {}
    event: dict[str, Any] = json.loads(line)
    return event
