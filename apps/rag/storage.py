"""What the library and its workers share on the disk: the spool of uploads, the writers' lock, the index, the jobs.

An upload stays in the spool from the moment it is acknowledged until it is ingested. The lock is held by the operating
system: it ends with its holder, however that ends. It is not a lease: a holder that merely sleeps keeps it.
"""

import asyncio
import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from apps.core.errors import InvalidValue, PayloadTooLarge
from apps.core.ports import Embedder
from apps.core.storage import storing, try_lock
from apps.rag.index.database import Database
from apps.rag.jobs import JobThread
from apps.rag.records import Limits, tenant_folder

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
            # Windows keeps a file that is open: the sweep takes it later
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


RETRY_SECONDS = 0.02


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[None, None]:
    """Waits for its turn without a thread."""
    file = _opened(path)
    try:
        while not try_lock(file):  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(RETRY_SECONDS)
        yield
    finally:
        file.close()


def _opened(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    embedder: Embedder
    tokenizer: Path | None
    limits: Limits
    jobs: JobThread
    spool: Spool
    database: Database
    locks: Path

    async def committing(self, tenant: str, collection: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do what commits to the collection, alone among all processes on this folder.

        Once begun it is done to its end, also where the caller is cancelled: a commit that goes on behind a lock
        that was given up could meet another one. Raises NoStorage where the disk refuses it.
        """
        async with locked(self.locks / f"{tenant_folder(tenant)}.{collection}"):
            task = asyncio.create_task(work())
            try:
                with storing("the index"):
                    return await asyncio.shield(task)
            except asyncio.CancelledError:
                await asyncio.wait({task})
                raise


def put_together(folder: Path, uri: str, embedder: Embedder, tokenizer: Path | None, limits: Limits) -> Parts:
    """Folders are made when something is put into them."""
    folder = folder.resolve()
    return Parts(
        embedder,
        tokenizer.resolve() if tokenizer else None,
        limits,
        JobThread(folder / "jobs.sqlite3", limits),
        Spool(folder / "spool", limits.file_bytes),
        Database(uri or str(folder / "index")),
        folder / "locks",
    )
