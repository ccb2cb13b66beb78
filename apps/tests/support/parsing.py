"""Files as they are read: their passages, and their text."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from apps.core.errors import InvalidValue
from apps.rag.parsing.sandbox import ocr_of
from apps.rag.parsing.sections import OcrOptions
from apps.rag.parsing.worker import Splitter, events_of
from apps.rag.records import Limits


class Parser(Protocol):
    async def parse(self, path: Path, name: str, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]: ...


class ParserHere:
    """Reads in this process what the parsing process would read, without its limits on memory and time."""

    def __init__(self, limits: Limits) -> None:
        self._splitter = Splitter(limits.chunk_tokens, int(limits.chunk_tokens * limits.chunk_overlap), None)
        self._chars = limits.text_chars
        self._ocr = OcrOptions.of(ocr_of(limits))

    async def parse(self, path: Path, name: str, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """As Sandbox.parse. Raises InvalidValue where the file cannot be read."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as the parsing process does
            lines = [json.dumps(event) for event in events_of(path, name, self._splitter, self._chars, self._ocr)]
        *events, last = map(json.loads, lines)
        if "error" in last:
            raise InvalidValue(last["error"]["message"], field=last["error"]["field"])
        for event in events:
            on_event(event)
        done: dict[str, Any] = last["done"]
        return done


async def read(parser: Parser, tmp_path: Path, name: str, content: bytes) -> tuple[list[Any], dict[str, Any]]:
    path = tmp_path / "upload"
    path.write_bytes(content)
    events: list[dict[str, Any]] = []
    done = await parser.parse(path, name, events.append)
    return [event["chunk"] for event in events if "chunk" in event], done


async def text_of(parser: Parser, tmp_path: Path, name: str, content: bytes) -> str:
    chunks, _ = await read(parser, tmp_path, name, content)
    return "\n\n".join(chunk["text"] for chunk in chunks)
