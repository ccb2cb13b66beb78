"""The ledger's write-ahead file: calls that have ended and whose rows are not in the database yet.

A call is appended before its last byte goes out, into pages of a file that the operating system keeps whatever becomes
of this process. When its row is written it is settled. Each process has a file of its own, locked while it lives; the
file of a process that died is read by the next one that starts, and its rows are written then. A row is known by its
id, so that one that was written before the end is not written twice. What a crash of the machine takes from the
kernel's memory is lost.

A file has all its room on the disk from its beginning, and is written through its mapped pages: a write by the system
call costs several times as much, since it changes the file's times. A disk that fails later would end the process at
the next clean page that is written; so each batch that is settled also writes a byte by the call, and an error of that
ends the file's use. A file whose rows are all written is used again from its beginning. What a record is made of stands
in ledger_rows.py.
"""

import errno
import logging
import mmap
import os
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from apps.core.calls import CallRecord
from apps.core.errors import NoStorage
from apps.core.storage import try_lock
from apps.operations.ledger_rows import END, HEADER, decoded, encoded, records_of

SUFFIX = ".journal"
# some thousand calls
MOST_BYTES = 1024 * 1024
PROBE_SECONDS = 1.0
MOST_BEGINNINGS = 10
RETRY_AFTER = 10.0
# about a record's length
PROBE = b"\0" * 512
CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _File:
    """``end`` is where the next record goes; ``open_calls`` are not settled yet. One of the dead has no ``memory``."""

    path: Path
    file: BinaryIO
    memory: mmap.mmap | None = None
    end: int = 0
    open_calls: int = 0

    def has_room(self, data: bytes) -> bool:
        return self.memory is not None and self.end + HEADER.size + len(data) + len(END) <= len(self.memory)

    def write(self, data: bytes) -> None:
        """Put an end behind it, and its header last: a record that is not whole is not there."""
        if self.memory is None:
            raise ValueError("a dead process's file is only read")
        begin = self.end + HEADER.size
        self.end = begin + len(data)
        self.memory[begin : self.end + len(END)] = data + END
        HEADER.pack_into(self.memory, begin - HEADER.size, len(data), zlib.crc32(data))

    def rewind(self) -> None:
        """Forget all records; the file keeps its length."""
        if self.memory is not None:
            self.memory[: len(END)] = END
        self.end = 0

    def check(self) -> None:
        """Write its last byte, which is an end's or nobody's, by the system call. Raises OSError."""
        self.file.seek(-1, os.SEEK_END)
        self.file.write(b"\0")

    def close(self) -> None:
        if self.memory is not None:
            self.memory.close()
        self.file.close()

    def remove(self) -> None:
        """Take its name away while it is locked: who has just made a file looks whether it has one once it is."""
        if self.memory is not None:
            self.memory.close()
        if os.name == "nt":
            self.file.close()
        self.path.unlink(missing_ok=True)
        self.file.close()


def new_file(path: Path, size: int) -> BinaryIO:
    """For its owner's eyes only, written without a buffer, and with all its room on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    file = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        _take_room(file, size)
    except OSError:
        file.close()
        path.unlink(missing_ok=True)
        raise
    return file


def _take_room(file: BinaryIO, size: int) -> None:
    """A mapped page that finds no room ends the process, so none may be without.

    On btrfs a page that was written to the disk is copied anew: where such a disk is full, the process can end so all
    the same. What it had answered is in the file.
    """
    if sys.platform != "win32" and sys.platform != "darwin":
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                raise
        else:
            return
    if file.write(bytes(size)) != size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    file.seek(0)


class Journal:
    """Never raises but from `require`: where the disk takes nothing, calls go on, which is logged and counted."""

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
        new_file: Callable[[Path, int], BinaryIO] = new_file,
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._new_file = new_file
        self._clock = clock
        self._files: list[_File] = []
        self._current: _File | None = None
        self._where: dict[str, _File] = {}
        self._probed = -PROBE_SECONDS
        self._opened = False
        self.failing = False
        self.failures = 0
        self.replayed = 0

    def open(self) -> list[CallRecord]:
        """Begin a file of this process; the calls that dead ones have left, the oldest first. May block."""
        self._opened = True
        left: list[CallRecord] = []
        try:
            left = self._adopt()
            self._begin()
        except OSError as error:
            self._fail(error)
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
            file = self._with_room(data)
        except OSError as error:
            self._fail(error)
            return
        file.write(data)
        file.open_calls += 1
        self._where[call.id] = file
        if self.failing:
            self._recover()

    def settle(self, calls: Iterable[CallRecord]) -> None:
        """Their rows are in the database, or never will be."""
        self._check()
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
                self._with_room(PROBE)
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
                file.close()
            else:
                file.remove()
        self._files.clear()
        self._current = None
        self._opened = False

    def _with_room(self, data: bytes) -> _File:
        """The file of this process that has room for a record, made where there is none. Raises OSError."""
        file = self._current
        if file is None or not file.has_room(data):
            file = self._begin()
            if not file.has_room(data):
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return file

    def _begin(self) -> _File:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(MOST_BEGINNINGS):
            path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            file = _File(path, self._new_file(path, self._most_bytes))
            # a process that starts at the same time may have adopted and removed it before it was locked
            if try_lock(file.file) and os.fstat(file.file.fileno()).st_nlink:
                try:
                    file.memory = mmap.mmap(file.file.fileno(), self._most_bytes)
                except OSError:
                    file.remove()
                    raise
                self._files.append(file)
                self._current = file
                return file
            file.close()
        raise OSError(errno.ENOLCK, "A new file of the journal cannot be locked")

    def _check(self) -> None:
        """Leave a file that cannot be written any more before one of its pages is: that would end the process."""
        if self._current is None:
            return
        file = self._current
        try:
            file.check()
        except OSError as error:
            self._current = None
            self._fail(error)
            if not file.open_calls:
                self._clear(file)

    def _clear(self, file: _File) -> None:
        if file is self._current:
            file.rewind()
            return
        self._files.remove(file)
        try:
            file.remove()
        except OSError as error:
            # its rows are written: at the next start they are found to be there already
            log.error("A file of the journal could not be removed: %s", error.strerror)

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
