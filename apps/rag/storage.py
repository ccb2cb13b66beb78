"""What the library keeps: the parts that it shares with its workers, and the collections that are there.

The parts are the uploads, the writers' lock, the index and the queue of jobs. The lock is held by the operating system:
it ends with its holder, however that ends. It is not a lease: a holder that merely sleeps keeps it. Machines that share
a database have a second lock there.

Collections, their documents and their passages are listed, shown and taken away.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from apps.core.errors import Conflict, InvalidValue, NotFound
from apps.core.ports import Embedder
from apps.core.storage import storing
from apps.operations.database import Database as SharedDatabase
from apps.rag.index.database import Database, refuse_mix
from apps.rag.index.filters import literal
from apps.rag.job_queue import JobQueue
from apps.rag.jobs import JobThread
from apps.rag.records import DOCUMENT as DOCUMENT_ID
from apps.rag.records import Collection, Document, DocumentText, Limits, Passage, no_document, tenant_folder
from apps.rag.shared_jobs import DatabaseJobs, DatabaseUploads, QueueDatabase
from apps.rag.uploads import Identity, LocalUploads, Spool, Uploads, is_remote, locked

T = TypeVar("T")
Alone = Callable[[str], AbstractAsyncContextManager[None]]
"""Holds a lock of this name among all machines, for the length of a block."""


@dataclass(frozen=True, slots=True)
class Parts:
    embedder: Embedder
    tokenizer: Path | None
    limits: Limits
    jobs: JobQueue
    uploads: Uploads
    database: Database
    locks: Path
    alone: Alone | None = None
    """None where the index is of one machine."""

    async def committing(self, tenant: str, collection: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do what commits to the collection, alone among all processes on this folder and all machines on the index.

        Once begun it is done to its end, also where the caller is cancelled: a commit that goes on behind a lock
        that was given up could meet another one. Raises NoStorage where the disk refuses it.
        """
        async with self._locked(f"{tenant_folder(tenant)}.{collection}"):
            task = asyncio.create_task(work())
            try:
                with storing("the index"):
                    return await asyncio.shield(task)
            except asyncio.CancelledError:
                await asyncio.wait({task})
                raise

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncGenerator[None, None]:
        """This machine's lock first: of each machine one process at most waits for the others'."""
        async with locked(self.locks / name):
            if self.alone is None:
                yield
                return
            async with self.alone(name):
                yield


JOBS = "jobs.sqlite3"


def put_together(
    folder: Path,
    uri: str,
    embedder: Embedder,
    tokenizer: Path | None,
    limits: Limits,
    shared: SharedDatabase | None = None,
) -> Parts:
    """Folders are made when something is put into them.

    With ``shared`` the queue is there. It is one queue for all machines that share the index where that is in a store
    of objects, and their uploads are in the database too; else for those that share ``folder``, which has the uploads.
    """
    folder = folder.resolve()
    index = uri or str(folder / "index")
    spool = Spool(folder / "spool", limits.file_bytes)
    known = tokenizer.resolve() if tokenizer else None
    if shared is None:
        jobs = JobThread(folder / JOBS, limits)
        return Parts(embedder, known, limits, jobs, LocalUploads(spool), Database(index), folder / "locks")
    queue = QueueDatabase(shared, Identity(index if is_remote(index) else str(folder)))
    uploads = DatabaseUploads(spool, queue) if is_remote(index) else LocalUploads(spool)
    place = Identity(index)

    @asynccontextmanager
    async def alone(name: str) -> AsyncGenerator[None, None]:
        async with shared.alone(f"{await place.name()} {name}"):
            yield

    locks = folder / "locks"
    shared_jobs = DatabaseJobs(queue, limits, uploads, folder / JOBS)
    return Parts(embedder, known, limits, shared_jobs, uploads, Database(index), locks, alone)


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
        spooled = await self._parts.jobs.cancel(tenant, collection, why, document)
        await self._parts.uploads.remove(*spooled)
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
