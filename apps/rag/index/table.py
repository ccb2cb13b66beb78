"""A tenant's tables over one connection to LanceDB, and what is read of one of them and written into it.

Imported with pyarrow and numpy when a tenant's folder is first opened.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lancedb
from lancedb import AsyncConnection
from lancedb.query import ColumnOrdering
from lancedb.table import AsyncTable

from apps.core.errors import NotFound
from apps.rag.index.filters import Columns, literal
from apps.rag.index.rows import (
    DOCUMENT,
    PASSAGE,
    Vectors,
    columns_of,
    document_of,
    model_of,
    passage_of,
    schema,
)
from apps.rag.index.searching import Candidate, candidates, phrased, rows_of
from apps.rag.index.writing import ensure_text_index, heads, put, remove, remove_name, tend
from apps.rag.parsing.sections import Chunk
from apps.rag.records import Document, Passage, no_collection
from apps.rag.vectors import diverse

# of what was read, for all collections together: an index of 100,000 passages takes about 100 MB
INDEX_CACHE = 256 * 2**20
METADATA_CACHE = 64 * 2**20
# names of tables: `con` and its like are devices on Windows
PREFIX = "c-"


class CollectionReader:
    """Reads one version of a collection's table, which no commit changes any more."""

    def __init__(self, table: AsyncTable) -> None:
        self.table = table

    async def model(self) -> tuple[str, int]:
        """The embedding model that the collection was made with, and its dimensions."""
        return await model_of(self.table)

    async def columns(self) -> Columns:
        return columns_of(await self.table.schema())

    async def counts(self) -> tuple[int, int]:
        """Of documents and of passages."""
        return await self.table.count_rows("ordinal = 0"), await self.table.count_rows()

    async def heads(self, where: str) -> list[Document]:
        """Documents by their first passage."""
        return await heads(self.table, where)

    async def documents(self, after: str, limit: int) -> list[Document]:
        """By id, those behind ``after``."""
        query = self.table.query().where(f"ordinal = 0 AND document > {literal(after)}").select(DOCUMENT)
        query = query.order_by([ColumnOrdering(column_name="document")]).limit(limit)
        return [document_of(row) for row in await query.to_list()]

    async def passages(self, where: str) -> list[Passage]:
        """In reading order."""
        rows = await self.table.query().where(where).select(PASSAGE).to_list()
        return [passage_of(row) for row in sorted(rows, key=lambda row: int(row["ordinal"]))]

    async def texts(self, document: str) -> list[tuple[int, str]]:
        """Start and text of a document's passages, in reading order."""
        query = self.table.query().where(f"document = {literal(document)}").select(["ordinal", "start", "text"])
        rows = sorted(await query.to_list(), key=lambda row: int(row["ordinal"]))
        return [(int(row["start"]), row["text"]) for row in rows]

    async def candidates(
        self, text: str | None, vector: Sequence[float] | None, where: str | None, wanted: int
    ) -> list[Candidate]:
        """Of each half of a search up to ``wanted``; a half whose query is None is left out."""
        return await candidates(self.table, text, vector, where, wanted)

    async def phrased(self, found: Sequence[Candidate], phrase: str) -> set[str]:
        """The ids of those in whose text the phrase stands."""
        return await phrased(self.table, found, phrase)

    async def candidate_passages(self, chosen: Sequence[Candidate]) -> list[Passage]:
        """In the order of the candidates, which must come from this version."""
        return [passage_of(row) for row in await rows_of(self.table, chosen)]

    def diverse(self, chosen: Sequence[Candidate], scores: Sequence[float], wanted: int, weight: float) -> list[int]:
        """Indices of candidates, best first by maximal marginal relevance; ``weight`` is its lambda."""
        return diverse(scores, [one.vector for one in chosen], wanted, weight)


class CollectionWriter(CollectionReader):
    """Commits to a collection's table, and follows each commit. The writers' lock is held."""

    async def put(self, document: Document, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        await put(self.table, document, chunks, vectors)

    async def remove(self, document: str) -> None:
        """Raises NotFound."""
        await remove(self.table, document)

    async def remove_name(self, document: str, name: str) -> None:
        """The document goes with its last name."""
        await remove_name(self.table, document, name)

    async def ensure_text_index(self) -> None:
        await ensure_text_index(self.table)

    async def tend(self) -> None:
        """Bring the indices up to date, and drop old versions."""
        await tend(self.table)


class TenantTables:
    """A tenant's folder, opened to read or to write."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    @staticmethod
    def make_caches() -> lancedb.Session:
        """Of all that one database reads."""
        return lancedb.Session(INDEX_CACHE, METADATA_CACHE)

    @classmethod
    async def open(cls, uri: str, caches: lancedb.Session, *, writing: bool) -> "TenantTables":
        # a writer follows each commit; a reader opens anew for each question
        interval = timedelta(0) if writing else None
        return cls(await lancedb.connect_async(uri, read_consistency_interval=interval, session=caches))

    async def names(self) -> list[str]:
        names: list[str] = []
        page: str | None = None
        while True:
            answer: Any = await self.connection.list_tables(page_token=page)
            names += [name.removeprefix(PREFIX) for name in answer.tables if name.startswith(PREFIX)]
            page = answer.page_token
            if not page:
                return sorted(names)

    async def reader(self, collection: str) -> CollectionReader:
        return CollectionReader(await self._table(collection))

    async def writer(self, collection: str) -> CollectionWriter:
        return CollectionWriter(await self._table(collection))

    async def make(self, collection: str, model: str, dimensions: int) -> CollectionWriter:
        """The collection, made where it is not there."""
        try:
            return await self.writer(collection)
        except NotFound:
            made = await self.connection.create_table(PREFIX + collection, schema=schema(model, dimensions))
            return CollectionWriter(made)

    async def drop(self, collection: str) -> None:
        """Raises NotFound."""
        await self._table(collection)
        await self.connection.drop_table(PREFIX + collection)

    def close(self) -> None:
        self.connection.close()

    async def _table(self, collection: str) -> AsyncTable:
        try:
            return await self.connection.open_table(PREFIX + collection)
        except ValueError as error:
            if "not found" in str(error):
                raise no_collection() from None
            raise
