"""The library: collections of documents, and search in them. The only module that the floors above need.

Everything is keyed by a tenant and a collection's name. Errors are those of ``apps.core.errors`` and nothing else:
NotFound for what is not there (or is another tenant's: the two look the same), InvalidValue and InvalidType
for what is wrong in the call, Conflict for a collection with another embedding model, PayloadTooLarge, Overloaded
where the queue is full, ModelUnavailable where the packages of requirements-local.txt are missing (its message names
the command). No HTTP here, and no concrete model.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apps.core.errors import InvalidValue, ModelUnavailable, NoStorage, StoreUnavailable
from apps.core.ports import Embedder, Readiness, Reranker
from apps.core.settings import Settings
from apps.core.storage import storing
from apps.operations.database import Database
from apps.rag.index.database import install_words, missing_requirements
from apps.rag.ingestion import Ingestion
from apps.rag.job_queue import NewFile
from apps.rag.records import (
    Collection,
    Document,
    DocumentText,
    Job,
    Limits,
    Metadata,
    Passage,
    SearchMode,
    Upload,
    collection_name,
    file_name,
    metadata,
)
from apps.rag.relevance import Support, supports
from apps.rag.search import Ranking, Search, checked
from apps.rag.storage import CollectionStore, put_together
from apps.rag.uploads import Housekeeping, Spool

Filter = Mapping[str, Any]
"""See index/filters.py: {"field": value} or {"field": {"$gte": 1, "$in": [...]}}, and "$and", "$or", "$not"."""

WATCH_SECONDS = 0.2
OPEN_AGAIN_SECONDS = 5.0

log = logging.getLogger(__name__)


class Library:
    """``folder`` holds the job table and what waits to be ingested; ``uri`` the index (empty: beside it).

    Several processes may share both: a file is ingested by one of them. With a ``database`` the table is there, and
    they may be on several machines (see `storage.py:put_together`). ``tokenizer`` is the embedder's own
    tokenizer.json; without one, passages are measured in characters and checked by the embedder.
    """

    def __init__(
        self,
        folder: Path,
        embedder: Embedder,
        *,
        uri: str = "",
        tokenizer: Path | None = None,
        reranker: Reranker | None = None,
        limits: Limits | None = None,
        ranking: Ranking | None = None,
        database: Database | None = None,
    ) -> None:
        self._limits = (limits or Limits()).for_embedder(embedder.longest)
        self._embedder = embedder
        self._failure: str | None = None
        self._opening: asyncio.Task[None] | None = None
        self._parts = put_together(folder, uri, embedder, tokenizer, self._limits, database)
        # a database that is down must not keep the service from starting
        self._opens_aside = database is not None
        self._jobs = self._parts.jobs
        self._ingestion = Ingestion(self._parts)
        self._housekeeping = Housekeeping(self._parts.jobs, self._parts.uploads)
        outdated = self._ingestion.ask_upkeep
        self._search = Search(self._parts.database, embedder, reranker, ranking or Ranking(), outdated)
        self._store = CollectionStore(self._parts)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        embedder: Embedder,
        *,
        tokenizer: Path | None = None,
        reranker: Reranker | None = None,
        database: Database | None = None,
    ) -> "Library":
        """``database`` has the queue where DATABASE_URL names one; SQLite's is of this machine, and not asked."""
        folder = settings.data_dir / "rag"
        shared = database if settings.database_url.get_secret_value() else None
        return cls(
            folder,
            embedder,
            uri=settings.rag_uri,
            tokenizer=tokenizer,
            reranker=reranker,
            limits=Limits.of(settings),
            database=shared,
        )

    def readiness(self) -> Readiness:
        """Whether it can ingest and search: not_configured where packages are missing, else the embedder's state."""
        if missing_requirements():
            return Readiness("rag", "not_configured", install_words())
        if self._failure is not None:
            return Readiness("rag", "failed", self._failure)
        embedder = self._embedder.readiness()
        details = {"embedding_model": embedder.name, "dimensions": self._embedder.dimensions}
        return Readiness("rag", embedder.state, embedder.reason, details, embedder.retry_after)

    async def start(self) -> None:
        """Begin to ingest what waits, also from before a restart; returns at once. Searching does not need it.

        Without the packages there is nothing to begin: every call says so.
        """
        if missing_requirements():
            return
        if self._opens_aside or not await self._opens():
            self._opening = asyncio.create_task(self._keep_opening())

    async def _keep_opening(self) -> None:
        """Until there is room on the disk, or the database answers."""
        if self._opens_aside and await self._opens():
            return
        while True:
            await asyncio.sleep(OPEN_AGAIN_SECONDS)
            if await self._opens():
                log.info("The folder of documents can be used again")
                return

    async def _opens(self) -> bool:
        """Begin to ingest; the service starts also where that cannot be, and says why it takes no documents."""
        try:
            await self._jobs.open()
        except StoreUnavailable as error:
            self._failure = error.message
            return False
        except (NoStorage, OSError, sqlite3.Error) as error:
            cause = error.__cause__ or error
            if self._failure is None:
                log.warning("The folder of documents cannot be used: %s", type(cause).__name__, exc_info=True)
            self._failure = f"The folder of documents cannot be used: {type(cause).__name__}"
            return False
        except Exception as error:
            # a row of before that the database refuses, say: this task must not end in silence
            failure = f"The queue of documents cannot be used: {type(error).__name__}"
            if self._failure != failure:
                log.exception("The queue of documents cannot be used")
            self._failure = failure
            return False
        self._failure = None
        self._ingestion.start()
        self._housekeeping.start()
        return True

    async def aclose(self) -> None:
        """Stop ingesting; what is half done begins again at the next start. The embedder is its owner's to close."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        await self._housekeeping.aclose()
        await self._ingestion.aclose()
        await self._parts.database.aclose()
        await self._jobs.aclose()

    @property
    def at_work(self) -> bool:
        """Whether documents go in now, whoever waits for it."""
        return self._ingestion.at_work

    async def submit(self, tenant: str, collection: str, uploads: Sequence[Upload]) -> Job:
        """Take files in. When this returns they are on the disk and survive a crash.

        The collection is made by its first document. The calls' order is kept among files of one name.
        """
        collection_name(collection)
        self._refuse_unready()
        if not 1 <= len(uploads) <= self._limits.files_per_job:
            details = {"min": 1, "max": self._limits.files_per_job, "received": len(uploads)}
            raise InvalidValue(f"1 to {self._limits.files_per_job} files at once", field="files", details=details)
        labels = [(file_name(upload.name), metadata(upload.metadata)) for upload in uploads]
        await self._jobs.refuse_overload(tenant, len(uploads), 0)
        await self._store.refuse_mix(tenant, collection)
        files = await asyncio.to_thread(take_in, self._parts.uploads.spool, labels, uploads)
        spooled = [file.spooled for file in files]
        try:
            await self._parts.uploads.keep(spooled)
            job = await self._jobs.add(tenant, collection, files)
        except BaseException:
            await self._parts.uploads.remove(*spooled)
            raise
        self._ingestion.wake()
        return await self.job(tenant, job)

    async def job(self, tenant: str, job_id: str) -> Job:
        return await self._jobs.job(tenant, job_id)

    async def watch(self, tenant: str, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now, then whenever it has changed; ends after the one that is finished.

        NotFound comes with the first item.
        """
        seen: Job | None = None
        while seen is None or not seen.finished:
            job = await self.job(tenant, job_id)
            if job != seen:
                seen = job
                yield job
            if not job.finished:
                await asyncio.sleep(WATCH_SECONDS)

    async def collections(self, tenant: str) -> list[Collection]:
        """The tenant's own, by name. Shared ones are those of the tenant ``shared``."""
        return await self._store.collections(tenant)

    async def collection(self, tenant: str, name: str) -> Collection:
        return await self._store.collection(tenant, collection_name(name))

    async def delete_collection(self, tenant: str, name: str) -> None:
        """With all that waits to be ingested into it: those files fail. NotFound where there is neither."""
        await self._store.delete_collection(tenant, collection_name(name))

    async def documents(self, tenant: str, collection: str, *, limit: int = 100, after: str = "") -> list[Document]:
        """By id; ``after`` is the last id of the page before."""
        return await self._store.documents(tenant, collection_name(collection), limit, after)

    async def document(self, tenant: str, collection: str, document_id: str) -> Document:
        return await self._store.document(tenant, collection_name(collection), document_id)

    async def passages(
        self, tenant: str, collection: str, document_id: str, *, limit: int = 100, after: int = -1
    ) -> list[Passage]:
        """A document's passages in reading order, with a score of 0; ``after`` is the number of the last one seen."""
        return await self._store.passages(tenant, collection_name(collection), document_id, limit, after)

    async def passage(self, tenant: str, collection: str, passage_id: str) -> Passage:
        """One passage by its id, with a score of 0."""
        return await self._store.passage(tenant, collection_name(collection), passage_id)

    async def text(self, tenant: str, collection: str, document_id: str) -> DocumentText:
        """What was read of a document."""
        return await self._store.text(tenant, collection_name(collection), document_id)

    async def remove_name(self, tenant: str, collection: str, document_id: str, name: str) -> None:
        """A document's name; the document goes with its last one."""
        await self._store.remove_name(tenant, collection_name(collection), document_id, name)

    async def settled(self, tenant: str, collection: str) -> None:
        """Returns when nothing waits to be ingested into the collection, here or in another process."""
        while await self._jobs.open_files(tenant, collection):  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(WATCH_SECONDS)

    async def supports(self, answer: str, passages: Sequence[Passage]) -> list[Support | None]:
        """Of each passage, the sentence that supports the answer; None where none does."""
        return await supports(self._embedder, answer, passages)

    async def delete_document(self, tenant: str, collection: str, document_id: str) -> None:
        """Also where its bytes still wait to be ingested: those files fail."""
        await self._store.delete_document(tenant, collection_name(collection), document_id)

    async def search(
        self,
        tenant: str,
        collection: str,
        text: str,
        *,
        top_k: int = 5,
        filter: Filter | None = None,
        mode: SearchMode = "hybrid",
        mmr: float | None = None,
    ) -> list[Passage]:
        """The best passages, best first.

        ``mmr`` is maximal marginal relevance's lambda: 1 is relevance alone, towards 0 passages that are like a
        better one are passed over. None turns it off. A query over the embedder's longest text is InvalidValue.
        """
        query = checked(text, top_k, self._limits.top_k, filter, mode, mmr)
        return await self._search.run(tenant, collection_name(collection), query)

    def _refuse_unready(self) -> None:
        """What could not be ingested is not taken in."""
        ready = self.readiness()
        if ready.state in ("not_configured", "failed"):
            raise ModelUnavailable(ready.reason, details={"state": ready.state}, retry_after=ready.retry_after or 60)


def take_in(spool: Spool, labels: Sequence[tuple[str, Metadata]], uploads: Sequence[Upload]) -> list[NewFile]:
    """All of them on the disk, or none. Blocks. Raises NoStorage where the disk refuses them."""
    with storing("an upload"):
        return _taken_in(spool, labels, uploads)


def _taken_in(spool: Spool, labels: Sequence[tuple[str, Metadata]], uploads: Sequence[Upload]) -> list[NewFile]:
    files: list[NewFile] = []
    try:
        for (name, described), upload in zip(labels, uploads, strict=True):
            spooled, digest, size = spool.write(name, upload.content)
            files.append(NewFile(name, digest, dict(described), size, spooled))
        spool.settle()
    except BaseException:
        spool.remove(*(file.spooled for file in files))
        raise
    return files
