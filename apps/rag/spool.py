"""Uploads on the disk, from the moment they are acknowledged until they are ingested. Blocks."""

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Set
from pathlib import Path
from typing import BinaryIO

from apps.core.errors import InvalidValue, PayloadTooLarge

BLOCK = 2**20
# what no job knows may be an upload that is just being taken in
ORPHAN_SECONDS = 3600


class Spool:
    """A folder of files with random names: nothing that a caller says becomes a path."""

    def __init__(self, folder: Path, largest: int) -> None:
        self._folder = folder
        self._largest = largest

    def path(self, spooled: str) -> Path:
        return self._folder / spooled

    def write(self, name: str, content: bytes | BinaryIO) -> tuple[str, str, int]:
        """Its name in the spool, its SHA-256 and its size; on the disk once ``settle`` has been called too."""
        self._folder.mkdir(parents=True, exist_ok=True)
        spooled, digest, size = uuid.uuid4().hex, hashlib.sha256(), 0
        try:
            with self.path(spooled).open("wb") as file:
                for block in _blocks(content):
                    size += len(block)
                    if size > self._largest:
                        details = {"max": self._largest, "name": name}
                        raise PayloadTooLarge(f"A file has at most {self._largest} bytes", details=details)
                    digest.update(block)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            if size == 0:
                raise InvalidValue("The file is empty", field="file", details={"name": name})
        except BaseException:
            self.remove(spooled)
            raise
        return spooled, digest.hexdigest(), size

    def settle(self) -> None:
        """The folder's own entries, where the system can say so of a folder."""
        if os.name == "posix":
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def remove(self, *spooled: str) -> None:
        for name in spooled:
            # Windows keeps what somebody reads: the sweep takes it later
            with contextlib.suppress(PermissionError):
                self.path(name).unlink(missing_ok=True)

    def sweep(self, known: Set[str]) -> None:
        """Remove what a crash left behind."""
        before = time.time() - ORPHAN_SECONDS
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name not in known and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)


def _blocks(content: bytes | BinaryIO) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    while block := content.read(BLOCK):
        yield block
