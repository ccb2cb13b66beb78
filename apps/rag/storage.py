"""What the library keeps: the parts that it shares with its workers on the disk, and the collections that are there.

The parts are the spool of uploads, the writers' lock, the index and the jobs. An upload stays in the spool from the
moment it is acknowledged until it is ingested. The lock is held by the operating system: it ends with its holder,
however that ends. It is not a lease: a holder that merely sleeps keeps it.

Collections, their documents and their passages are listed, shown and taken away.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from apps.core.errors import Conflict, InvalidValue, NotFound, PayloadTooLarge
from apps.core.ports import Embedder
from apps.core.storage import storing, try_lock
from apps.rag.index.database import Database, refuse_mix
from apps.rag.index.filters import literal
from apps.rag.jobs import JobThread
from apps.rag.records import DOCUMENT as DOCUMENT_ID
from apps.rag.records import Collection, Document, DocumentText, Limits, Passage, no_document, tenant_folder

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


MOST = 1000
PASSAGE_ID = re.compile(r"[0-9a-f]{64}:\d{1,9}")


class CollectionStore:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def refuse_mix(self, tenant: str, collection: str) -> None:
        """Raises Conflict; a collection that is not there yet takes any model."""
        try:
            table = await self._parts.database.reading(tenant, collection)
        except NotFound:
            return
        await refuse_mix(table, self._parts.embedder.name, self._parts.embedder.dimensions)

    async def collections(self, tenant: str) -> list[Collection]:
        found: list[Collection] = []
        for name in await self._parts.database.collections(tenant):
            try:
                found.append(await self.collection(tenant, name))
            except NotFound:
                # deleted meanwhile
                continue
        return found

    async def collection(self, tenant: str, name: str) -> Collection:
        table = await self._parts.database.reading(tenant, name)
        return Collection(name, *await table.model(), *await table.counts())

    async def delete_collection(self, tenant: str, name: str) -> None:
        waiting = await self._cancel(tenant, name, Conflict("The collection was deleted", field="collection"))
        try:
            await self._parts.committing(tenant, name, lambda: self._parts.database.drop(tenant, name))
        except NotFound:
            if not waiting:
                raise

    async def documents(self, tenant: str, collection: str, limit: int, after: str) -> list[Document]:
        table = await self._parts.database.reading(tenant, collection)
        if after and not DOCUMENT_ID.fullmatch(after):
            raise InvalidValue("after is the id of a document", field="after")
        return await table.documents(after, _limited(limit))

    async def document(self, tenant: str, collection: str, document_id: str) -> Document:
        table = await self._parts.database.reading(tenant, collection)
        found = await table.heads(f"document = {literal(_document_id(document_id))}")
        if not found:
            raise no_document()
        return found[0]

    async def passages(self, tenant: str, collection: str, document_id: str, limit: int, after: int) -> list[Passage]:
        table = await self._parts.database.reading(tenant, collection)
        first, last = after + 1, after + _limited(limit)
        where = f"document = {literal(_document_id(document_id))}"
        found = await table.passages(f"{where} AND ordinal BETWEEN {int(first)} AND {int(last)}")
        if not found and not await table.heads(where):
            raise no_document()
        return found

    async def passage(self, tenant: str, collection: str, passage_id: str) -> Passage:
        table = await self._parts.database.reading(tenant, collection)
        if not isinstance(passage_id, str) or not PASSAGE_ID.fullmatch(passage_id):
            raise no_passage()
        found = await table.passages(f"id = {literal(passage_id)}")
        if not found:
            raise no_passage()
        return found[0]

    async def text(self, tenant: str, collection: str, document_id: str) -> DocumentText:
        """Put together from the passages: between two of them there was white space alone."""
        document = await self.document(tenant, collection, document_id)
        table = await self._parts.database.reading(tenant, collection)
        parts, length = list[str](), 0
        for start, text in await table.texts(document.id):
            gap = max(start - length, 0)
            new = text[max(length - start, 0) :]
            parts += ["\n" * gap, new]
            length += gap + len(new)
        return DocumentText(document, "".join(parts))

    async def remove_name(self, tenant: str, collection: str, document_id: str, name: str) -> None:
        """The document goes with its last name."""
        _document_id(document_id)

        async def work() -> None:
            table = await self._parts.database.writing(tenant, collection)
            await table.remove_name(document_id, name)

        await self._parts.committing(tenant, collection, work)

    async def delete_document(self, tenant: str, collection: str, document_id: str) -> None:
        _document_id(document_id)
        why = Conflict("The document was deleted", field="document")
        waiting = await self._cancel(tenant, collection, why, document_id)
        try:
            await self._parts.committing(tenant, collection, lambda: self._remove(tenant, collection, document_id))
        except NotFound:
            if not waiting:
                raise

    async def _remove(self, tenant: str, collection: str, document: str) -> None:
        await (await self._parts.database.writing(tenant, collection)).remove(document)

    async def _cancel(self, tenant: str, collection: str, why: Conflict, document: str | None = None) -> bool:
        spooled = await self._parts.jobs(lambda table: table.cancel(tenant, collection, why, document))
        await asyncio.to_thread(self._parts.spool.remove, *spooled)
        return bool(spooled)


def _document_id(given: str) -> str:
    if not isinstance(given, str) or not DOCUMENT_ID.fullmatch(given):
        raise no_document()
    return given


def no_passage() -> NotFound:
    return NotFound("No such passage", field="passage")


def _limited(limit: int) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
        raise InvalidValue(f"limit must be between 1 and {MOST}", field="limit", details={"min": 1, "max": MOST})
    return limit
