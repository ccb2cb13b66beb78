"""The prefix cache's second floor: keys and values on disk, which survive a restart and are shared by processes.

A sequence is kept in blocks of 32 tokens, a file each. A block's name is a hash of the model, the kernels, the tenant
and every token up to its end, so that a block stands for one beginning only, equal beginnings share their blocks, and
no text is written. A look is a look into the folder. Files are written under another name and renamed, and hold a
checksum: one that is broken counts as missing. The least recently used go first; what was not used for a week too.
"""

import contextlib
import hashlib
import logging
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

BLOCK = 32
MAGIC = b"genaikv1"
# copies that wait for the disk; what does not fit is not kept
MOST_WAITING = 64 << 20
KEPT_SECONDS = 7 * 86400.0
REST_AFTER_ERROR = 60.0
# an eviction makes room for more than the next block
EVICTED_DOWN_TO = 0.9
SUFFIX = ".kv"


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """``blocks`` hold keys and values of a prompt's tokens from ``begin`` on, BLOCK tokens each."""

    begin: int
    blocks: Sequence[memoryview]

    @property
    def end(self) -> int:
        return self.begin + BLOCK * len(self.blocks)


class PrefixStore:
    """At most ``most_bytes`` in ``folder``. ``identity`` names all that keys and values depend on besides tokens.

    ``load`` may be called from any thread, ``keep`` from one; a thread of its own writes.
    """

    def __init__(self, folder: Path, identity: str, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._identity = identity
        self._most_bytes = most_bytes
        self._clock = clock
        self._waiting: deque[tuple[Path, bytes]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._rests_until = 0.0
        # unknown until the folder is looked through at the first write
        self._bytes: int | None = None
        self._thread = threading.Thread(target=self._write_all, name="local-prefix-store", daemon=True)
        self._thread.start()

    def load(self, tenant: str, prompt: Sequence[int], known: int) -> StoredPrefix | None:
        """What is kept of the beginning of ``prompt`` beyond its first ``known`` tokens; never its last token."""
        files = list(self._files(tenant, prompt[:-1]))
        first = known // BLOCK
        blocks: list[memoryview] = []
        for file in files[first:]:
            block = self._read(file)
            if block is None:
                break
            blocks.append(block)
        if not blocks or first + len(blocks) <= known // BLOCK:
            return None
        # the end of a beginning goes before its start, without which it cannot be found
        for file in reversed(files[: first + len(blocks)]):
            with contextlib.suppress(OSError):
                os.utime(file, (self._clock(),) * 2)
        return StoredPrefix(first * BLOCK, blocks)

    def keep(self, tenant: str, tokens: Sequence[int], block: Callable[[int, int], bytes]) -> None:
        """Copies what is not kept yet of a sequence, by ``block(start, stop)``, to be written soon."""
        if self._clock() < self._rests_until:
            return
        for number, file in enumerate(self._files(tenant, tokens)):
            if file.exists():
                continue
            if self._waiting_bytes >= MOST_WAITING:
                return
            values = block(number * BLOCK, (number + 1) * BLOCK)
            with self._changed:
                self._waiting.append((file, values))
                self._waiting_bytes += len(values)
                self._changed.notify()

    def close(self) -> None:
        """Waits until what was handed in is written."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _files(self, tenant: str, tokens: Sequence[int]) -> Iterator[Path]:
        """Of each whole block of ``tokens``."""
        name = hashlib.sha256(f"{self._identity}\0{tenant}".encode()).digest()
        values = np.asarray(tokens[: len(tokens) // BLOCK * BLOCK], np.int32).reshape(-1, BLOCK)
        for block in values:
            name = hashlib.sha256(name + block.tobytes()).digest()
            yield self._folder / f"{name.hex()[:40]}{SUFFIX}"

    def _read(self, file: Path) -> memoryview | None:
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("A kept prefix cannot be read: %s", error.strerror)
            return None
        head = len(MAGIC) + 4
        if content[: len(MAGIC)] == MAGIC and content[len(MAGIC) : head] == _checksum(content[head:]):
            return memoryview(content)[head:]
        log.warning("A kept prefix is broken and is removed: %s", file.name)
        with contextlib.suppress(OSError):
            file.unlink()
        return None

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                file, values = self._waiting[0]
            try:
                self._write(file, values)
            except OSError as error:
                self._rests_until = self._clock() + REST_AFTER_ERROR
                log.warning("Prefixes cannot be kept in %s (%s): none for a minute", self._folder, error.strerror)
            with self._changed:
                self._waiting.popleft()
                self._waiting_bytes -= len(values)

    def _write(self, file: Path, values: bytes) -> None:
        if self._clock() < self._rests_until or file.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        size = len(MAGIC) + 4 + len(values)
        self._make_room(size)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}.partial")
        try:
            # keys and values tell much of the text that they were computed from
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(MAGIC + _checksum(values))
                opened.write(values)
            unfinished.replace(file)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        self._bytes = (self._bytes or 0) + size

    def _make_room(self, size: int) -> None:
        """Looks through the folder where this process's account says that it is full: others write there too."""
        if self._bytes is not None and self._bytes + size <= self._most_bytes:
            return
        found = []
        for file in self._folder.iterdir():
            # another process may be faster
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                found.append((status.st_mtime, status.st_size, file))
        total = sum(each for _, each, _ in found)
        limit = self._most_bytes if total + size <= self._most_bytes else int(self._most_bytes * EVICTED_DOWN_TO)
        for modified, each, file in sorted(found):
            if total + size <= limit and self._clock() - modified < KEPT_SECONDS:
                break
            file.unlink(missing_ok=True)
            total -= each
        self._bytes = total


def _checksum(values: bytes) -> bytes:
    return zlib.crc32(values).to_bytes(4, "little")
