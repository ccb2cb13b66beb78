"""What was taken in and waits to be ingested: the spool, where workers find it; and the names of shared places.

An upload stays in the spool from the moment it is acknowledged until it is ingested. What crashes left there is dropped
every hour, when old jobs are forgotten.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from apps.core.errors import InvalidValue, NoStorage, PayloadTooLarge, StoreUnavailable
from apps.core.storage import storing, try_lock
from apps.rag.job_queue import JobQueue

log = logging.getLogger(__name__)

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
            # a copy of an upload, which is being ingested, has its name before the dash
            if path.name.partition("-")[0] in known:
                continue
            # another process may take it away meanwhile
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()


def _blocks(content: bytes | BinaryIO) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    while block := content.read(BLOCK):
        yield block


class Uploads(Protocol):
    """What was taken in and is not ingested yet, by names of the spool."""

    spool: Spool

    async def keep(self, spooled: Sequence[str]) -> None:
        """Put what the spool has where workers will look for it, to stay; raises NoStorage or StoreUnavailable."""

    def opened(self, spooled: str) -> AbstractAsyncContextManager[Path]:
        """A file with the upload, for the length of the block."""

    async def remove(self, *spooled: str) -> None: ...

    async def sweep(self, known: Set[str]) -> None:
        """Remove what a crash left behind; ``known`` is needed."""


class LocalUploads:
    """Implements Uploads: workers look into the spool itself."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool

    async def keep(self, spooled: Sequence[str]) -> None:
        """They are there."""

    @asynccontextmanager
    async def opened(self, spooled: str) -> AsyncGenerator[Path, None]:
        yield self.spool.path(spooled)

    async def remove(self, *spooled: str) -> None:
        await asyncio.to_thread(self.spool.remove, *spooled)

    async def sweep(self, known: Set[str]) -> None:
        with storing("the folder of uploads"):
            await asyncio.to_thread(self.spool.sweep, known)


TIDY_SECONDS = 3600.0


class Housekeeping:
    """Started and closed once. Nothing waits for it, and what fails is tried again after ``seconds``."""

    def __init__(self, jobs: JobQueue, uploads: Uploads, seconds: float = TIDY_SECONDS) -> None:
        self._jobs = jobs
        self._uploads = uploads
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_tidy())

    async def aclose(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _keep_tidy(self) -> None:
        while True:
            try:
                await self._uploads.sweep(await self._jobs.forget())
            except (NoStorage, StoreUnavailable) as error:
                log.info("Old jobs of documents are there a while longer: %s", error.message)
            except Exception:
                log.exception("Old jobs of documents cannot be tidied away")
            await asyncio.sleep(self._seconds)


class Identity:
    """The name of a folder, or of a store of objects by its URL: the same on every machine that shares it."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._name = ""

    async def name(self) -> str:
        """32 characters. A folder's is in a file of it, which is made."""
        if not self._name:
            self._name = (
                hashlib.sha256(self._place.rstrip("/").encode()).hexdigest()[:32]
                if is_remote(self._place)
                else await self._folders_name()
            )
        return self._name

    async def _folders_name(self) -> str:
        file = Path(self._place) / IDENTITY
        with storing("the name of the folder of documents"):
            async with locked(file.with_suffix(".lock")):
                if not file.exists():
                    new = file.with_suffix(".new")
                    new.write_text(uuid.uuid4().hex)
                    new.replace(file)
                return file.read_text().strip()


def is_remote(place: str) -> bool:
    """Whether it is a store of objects."""
    return "://" in place


IDENTITY = "identity"
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
