"""The ledger's write-ahead file: calls that have ended and whose rows are not in the database yet.

A call is appended before its last byte goes out, by one write to the operating system, which keeps it whatever becomes
of this process. When its row is written it is settled. Each process has a file of its own, locked while it lives; the
file of a process that died is read by the next one that starts, and its rows are written then. A row is known by its
id, so that one that was written before the end is not written twice. What a crash of the machine takes from the
kernel's memory is lost.

A file whose rows are all written is used again from its beginning, with the pages that it has: to cut it and to let it
grow for each batch costs more than what is written. What a record is made of stands in ledger_rows.py.
"""

import errno
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from apps.core.calls import CallRecord
from apps.core.errors import NoStorage
from apps.core.storage import try_lock
from apps.operations.ledger_rows import END, decoded, encoded, records_of

SUFFIX = ".journal"
MOST_BYTES = 4 * 1024 * 1024
PROBE_SECONDS = 1.0
MOST_BEGINNINGS = 10
RETRY_AFTER = 10.0
PROBE = b"\0" * 4096

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _File:
    """``end`` is where the next record goes; ``open_calls`` are not settled yet."""

    path: Path
    file: BinaryIO
    end: int = 0
    open_calls: int = 0

    def write(self, data: bytes) -> None:
        """Whole or not at all, and an end behind it. Raises OSError."""
        self._put(data + END)
        self.end += len(data)

    def rewind(self) -> None:
        """Forget all records; the file keeps its length. Raises OSError."""
        self.end = 0
        self._put(END)

    def _put(self, data: bytes) -> None:
        if os.name == "nt":
            self.file.seek(self.end)
            written = self.file.write(data) or 0
        else:
            written = os.pwrite(self.file.fileno(), data, self.end)
        if written != len(data):
            # the rest of the disk: what was written is cut off, or written over
            raise OSError(28, "No space left on device")

    def probe(self) -> None:
        """Write where the next record will be, and take it back. Raises OSError."""
        end = self.end
        try:
            self.write(PROBE)
        finally:
            self.end = end
            self.file.truncate(end)

    def remove(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)


def new_file(path: Path) -> BinaryIO:
    """For its owner's eyes only, and written without a buffer."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    return os.fdopen(descriptor, "r+b", buffering=0)


class Journal:
    """Never raises but from `require`: where the disk takes nothing, calls go on, which is logged and counted."""

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
        new_file: Callable[[Path], BinaryIO] = new_file,
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._new_file = new_file
        self._clock = clock
        self._files: list[_File] = []
        self._where: dict[str, _File] = {}
        self._probed = -PROBE_SECONDS
        self._opened = False
        self.failing = False
        self.failures = 0
        self.replayed = 0

    def open(self) -> list[CallRecord]:
        """Begin a file of this process; the calls that dead ones have left, the oldest first. May block."""
        self._opened = True
        try:
            left = self._adopt()
            self._begin()
        except OSError as error:
            self._fail(error)
            left = []
        self.replayed += len(left)
        if left:
            log.warning("Read %d calls of a process that ended before their rows were written", len(left))
        return left

    def append(self, call: CallRecord) -> None:
        """Keep a call until it is settled."""
        if not self._opened:
            return
        data = encoded(call)
        try:
            file = self._files[-1] if self._files else self._begin()
            if file.end + len(data) > self._most_bytes:
                file = self._begin()
            file.write(data)
        except OSError as error:
            self._fail(error)
            return
        file.open_calls += 1
        self._where[call.id] = file
        if self.failing:
            self._recover()

    def settle(self, calls: Iterable[CallRecord]) -> None:
        """Their rows are in the database, or never will be."""
        for call in calls:
            file = self._where.pop(call.id, None)
            if file is None:
                continue
            file.open_calls -= 1
            if not file.open_calls:
                self._clear(file)

    def require(self) -> None:
        """Raise NoStorage where the disk takes nothing; it is tried once a second."""
        if not self.failing:
            return
        if self._clock() - self._probed >= PROBE_SECONDS:
            self._probed = self._clock()
            try:
                (self._files[-1] if self._files else self._begin()).probe()
            except OSError as error:
                self._fail(error)
            else:
                self._recover()
                return
        text = "The service cannot write its journal, and answers nothing that it cannot write down"
        raise NoStorage(text, retry_after=RETRY_AFTER)

    def holds(self, call: CallRecord) -> bool:
        """Whether the next process would find it."""
        return call.id in self._where

    def close(self) -> None:
        """What is not settled stays for the next process."""
        for file in self._files:
            if file.open_calls:
                file.file.close()
            else:
                file.remove()
        self._files.clear()
        self._opened = False

    def _begin(self) -> _File:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(MOST_BEGINNINGS):
            path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            file = _File(path, self._new_file(path))
            # a process that starts at the same time may have adopted and removed it before it was locked
            if try_lock(file.file) and os.fstat(file.file.fileno()).st_nlink:
                self._files.append(file)
                return file
            file.file.close()
        raise OSError(errno.ENOLCK, "A new file of the journal cannot be locked")

    def _clear(self, file: _File) -> None:
        try:
            if file is self._files[-1]:
                file.rewind()
            else:
                self._files.remove(file)
                file.remove()
        except OSError as error:
            # its rows are written: at the next start they are found to be there already
            log.error("A file of the journal could not be emptied: %s", error.strerror)

    def _adopt(self) -> list[CallRecord]:
        found: list[CallRecord] = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                opened = path.open("r+b", buffering=0)
            except FileNotFoundError:  # another process that starts has read and removed it
                continue
            if not try_lock(opened) or not path.exists():
                opened.close()
                continue
            file = _File(path, opened)
            calls, readable = _read(opened, path.name)
            if not readable:
                opened.close()
                continue
            if not calls:
                file.remove()
                continue
            file.open_calls = len(calls)
            self._files.append(file)
            self._where |= {call.id: file for call in calls}
            found += calls
        return sorted(found, key=lambda call: call.begun_at)

    def _fail(self, error: OSError) -> None:
        self.failures += 1
        if not self.failing:
            self.failing = True
            log.error(
                "The ledger's journal cannot be written (%s): calls that are answered now are lost where this process"
                " is killed",
                error.strerror,
            )

    def _recover(self) -> None:
        self.failing = False
        log.info("The ledger's journal can be written again")


def _read(file: BinaryIO, name: str) -> tuple[list[CallRecord], bool]:
    """The calls of a file, and whether they are of a format that this version knows: others are left where they are."""
    calls: list[CallRecord] = []
    for data in records_of(file.read()):
        try:
            calls.append(decoded(data))
        except (ValueError, TypeError) as error:
            log.error("The journal %s is of another version and is left as it is: %s", name, error)
            return [], False
    return calls, True
