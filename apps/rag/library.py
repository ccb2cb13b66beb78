"""The library: collections of documents, and search in them. The only module that the floors above need.

Everything is keyed by a tenant and a collection's name. Errors are those of ``apps.core.errors`` and nothing else:
NotFound for what is not there (or is another tenant's: nobody can tell the difference), InvalidValue and InvalidType
for what is wrong in the call, Conflict for a collection with another embedding model, PayloadTooLarge, Overloaded
where the queue is full, ModelUnavailable where the packages of requirements-local.txt are missing (its message names
the command). No HTTP here, and no concrete model.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apps.core.ports import Embedder, Readiness
from apps.core.settings import Settings
from apps.rag.limits import Limits
from apps.rag.ports import Reranker
from apps.rag.records import Collection, Document, Job, Passage, SearchMode, Upload

Filter = Mapping[str, Any]
"""See apps/rag/filters.py: {"field": value} or {"field": {"$gte": 1, "$in": [...]}}, and "$and", "$or", "$not"."""


class Library:
    """``folder`` holds the job table and what waits to be ingested; ``uri`` the index (empty: beside it).

    Several processes may share both: a file is ingested by one of them. ``tokenizer`` is the embedder's own
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
    ) -> None:
        raise NotImplementedError

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        embedder: Embedder,
        *,
        tokenizer: Path | None = None,
        reranker: Reranker | None = None,
    ) -> "Library":
        raise NotImplementedError

    def readiness(self) -> Readiness:
        """Whether it can ingest and search: not_configured where packages are missing, else the embedder's state."""
        raise NotImplementedError

    async def start(self) -> None:
        """Begin to ingest what waits, also from before a restart; returns at once. Searching does not need it."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Stop ingesting; what is half done begins again at the next start. The embedder is its owner's to close."""
        raise NotImplementedError

    async def submit(self, tenant: str, collection: str, uploads: Sequence[Upload]) -> Job:
        """Take files in. When this returns they are on the disk and survive a crash.

        The collection is made by its first document. The calls' order is kept among files of one name.
        """
        raise NotImplementedError

    async def job(self, tenant: str, job_id: str) -> Job:
        raise NotImplementedError

    def watch(self, tenant: str, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now, then whenever it has changed; ends after the one that is finished.

        NotFound comes with the first item.
        """
        raise NotImplementedError

    async def collections(self, tenant: str) -> list[Collection]:
        """The tenant's own, by name. Shared ones are those of the tenant ``shared``."""
        raise NotImplementedError

    async def collection(self, tenant: str, name: str) -> Collection:
        raise NotImplementedError

    async def delete_collection(self, tenant: str, name: str) -> None:
        """With all that waits to be ingested into it: those files fail. NotFound where there is neither."""
        raise NotImplementedError

    async def documents(self, tenant: str, collection: str, *, limit: int = 100, after: str = "") -> list[Document]:
        """By id; ``after`` is the last id of the page before."""
        raise NotImplementedError

    async def document(self, tenant: str, collection: str, document_id: str) -> Document:
        raise NotImplementedError

    async def passages(
        self, tenant: str, collection: str, document_id: str, *, limit: int = 100, after: int = -1
    ) -> list[Passage]:
        """A document's passages in reading order, with a score of 0; ``after`` is the number of the last one seen."""
        raise NotImplementedError

    async def delete_document(self, tenant: str, collection: str, document_id: str) -> None:
        raise NotImplementedError

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
        raise NotImplementedError
