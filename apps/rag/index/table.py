"""A tenant's tables over one connection to LanceDB, and what is read of one of them and written into it.

Imported with pyarrow and numpy when a tenant's folder is first opened.

A search on one version of a table has two halves, nearest vectors and BM25. Candidates come by their row ids, without
any column: reading rows of all of them took as long as finding them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import lancedb
import pyarrow as pa
from lancedb import AsyncConnection
from lancedb.query import ColumnOrdering, MatchQuery
from lancedb.table import AsyncTable
from numpy import float32
from numpy.typing import NDArray

from apps.core.errors import NotFound
from apps.rag.index.filters import Columns, literal
from apps.rag.index.rows import (
    DOCUMENT,
    PASSAGE,
    WORDS,
    Vectors,
    columns_of,
    document_of,
    model_of,
    ordinal_of,
    passage_of,
    schema,
)
from apps.rag.index.writing import TEXT_INDEX, WORDS_INDEX, ensure_text_index, heads, put, remove, remove_name, tend
from apps.rag.normalization import indexed, which_hold_phrase
from apps.rag.parsing.sections import Chunk
from apps.rag.records import Document, Passage, no_collection
from apps.rag.vectors import cosines, diverse

# with about a thousand rows a partition: 20,000 rows are looked at closely, and more where a filter leaves too few
PROBES = 20
ALL = 0
ROW_ID = "_rowid"
# the index compresses vectors; so many times the wanted rows are compared again in full
REFINE = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """Of the two ranks, from 0, at least one is known."""

    row: int
    """Where it is in this version of the table."""
    cosine: float | None
    """Of its vector and the query's, where the vectors' half found it."""
    vector_rank: int | None
    text_rank: int | None
    text_score: float | None


Hits = Mapping[int, float]
"""Passages that one half found, the best first: where they are in this version of the table, and their scores."""


async def nearest(table: AsyncTable, vector: Sequence[float], where: str | None, wanted: int) -> Hits:
    """Up to ``wanted`` passages by their vectors, with their cosines."""
    query = table.query().nearest_to(list(vector)).distance_type("cosine").refine_factor(REFINE)
    query = query.minimum_nprobes(PROBES).maximum_nprobes(PROBES if where is None else ALL).limit(wanted)
    query = query.select(["_distance"]).with_row_id()
    found = await (query if where is None else query.where(where)).to_arrow()
    return {row: 1 - distance for row, distance in _columns(found, "_distance")}


async def matching(table: AsyncTable, text: str, where: str | None, wanted: int) -> Hits:
    """Up to ``wanted`` passages that have words of ``text``, with their BM25."""
    built = {index.name for index in await table.list_indices()}
    if not built & {TEXT_INDEX, WORDS_INDEX}:
        # the index comes before the first row: without it, the table is empty
        return {}
    column = WORDS if WORDS_INDEX in built else "text"
    # words to match and nothing else: no syntax in it
    query = table.query().nearest_to_text(MatchQuery(indexed(text), column)).limit(wanted)
    query = query.select(["_score"]).with_row_id()
    found = await (query if where is None else query.where(where)).to_arrow()
    return dict(_columns(found, "_score"))


def _columns(found: pa.Table, score: str) -> Iterable[tuple[int, float]]:
    return zip(*(found.column(name).to_pylist() for name in (ROW_ID, score)), strict=True)


async def rows_of(table: AsyncTable, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """The columns, in the order of the rows. The table must be at the version that the rows come from."""
    found = await table.take_row_ids(list(rows)).select(list(columns)).with_row_id().to_arrow()
    places = {row: at for at, row in enumerate(found.column(ROW_ID).to_pylist())}
    return found.take([places[row] for row in rows]).drop_columns([ROW_ID])


def _vectors_in(found: pa.Table) -> NDArray[float32]:
    """Arrays: as Python's own floats they would cost more than the search."""
    column = found.column("vector").combine_chunks()
    vectors: NDArray[float32] = column.flatten().to_numpy(zero_copy_only=False)
    return vectors.reshape(len(column), column.type.list_size)


# of what was read, for all collections together: an index of 100,000 passages takes about 100 MB
INDEX_CACHE = 256 * 2**20
METADATA_CACHE = 64 * 2**20
# names of tables: `con` and its like are devices on Windows
PREFIX = "c-"


class CollectionReader:
    """Reads one version of a collection's table, which no commit changes any more."""

    def __init__(self, table: AsyncTable) -> None:
        self.table = table
        self._schema: pa.Schema | None = None

    async def schema(self) -> pa.Schema:
        self._schema = self._schema or await self.table.schema()
        return self._schema

    async def model(self) -> tuple[str, int]:
        """The embedding model that the collection was made with, and its dimensions."""
        return model_of(await self.schema())

    async def columns(self) -> Columns:
        return columns_of(await self.schema())

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
        return sorted(map(passage_of, rows), key=ordinal_of)

    async def texts(self, document: str) -> list[tuple[int, str]]:
        """Start and text of a document's passages, in reading order."""
        query = self.table.query().where(f"document = {literal(document)}").select(["ordinal", "start", "text"])
        rows = sorted(await query.to_list(), key=lambda row: int(row["ordinal"]))
        return [(int(row["start"]), row["text"]) for row in rows]

    async def nearest(self, vector: Sequence[float], where: str | None, wanted: int) -> Hits:
        """Of the vectors' half."""
        return await nearest(self.table, vector, where, wanted)

    async def matching(self, text: str, where: str | None, wanted: int) -> Hits:
        """Of the words' half."""
        return await matching(self.table, text, where, wanted)

    async def with_phrase(self, rows: Sequence[int], phrase: str) -> set[int]:
        """Those of the rows in whose text the phrase stands."""
        if not rows:
            return set()
        texts = (await rows_of(self.table, rows, ["text"])).column("text").to_pylist()
        return {row for row, holds in zip(rows, which_hold_phrase(texts, phrase), strict=True) if holds}

    @staticmethod
    def candidates(near: Hits, matches: Hits) -> list[Candidate]:
        """The hits of both halves, each passage once."""
        vector_ranks, text_ranks = ({row: rank for rank, row in enumerate(half)} for half in (near, matches))
        return [
            Candidate(row, near.get(row), vector_ranks.get(row), text_ranks.get(row), matches.get(row))
            for row in {**near, **matches}
        ]

    async def candidate_passages(
        self, chosen: Sequence[Candidate], vector: Sequence[float] | None
    ) -> list[tuple[Passage, float | None]]:
        """In the order of the candidates, which must come from this version, with their cosines to ``vector``."""
        if not chosen:
            return []
        unknown = vector is not None and any(one.cosine is None for one in chosen)
        found = await rows_of(self.table, [one.row for one in chosen], [*PASSAGE, "vector"] if unknown else PASSAGE)
        alike: Sequence[float | None] = [None] * len(chosen)
        if vector is not None and unknown:
            alike = cosines(vector, _vectors_in(found))
        # one number for one passage, whichever half found it
        known = [near if one.cosine is None else one.cosine for one, near in zip(chosen, alike, strict=True)]
        rows = found.select(PASSAGE).to_pylist()
        return [(passage_of(row), cosine) for row, cosine in zip(rows, known, strict=True)]

    async def diverse(
        self, chosen: Sequence[Candidate], scores: Sequence[float], wanted: int, weight: float
    ) -> list[int]:
        """Indices of candidates, best first by maximal marginal relevance; ``weight`` is its lambda."""
        if not chosen:
            return []
        found = await rows_of(self.table, [one.row for one in chosen], ["id", "vector"])
        ids, vectors = found.column("id").to_pylist(), _vectors_in(found)
        # of those that are as good as each other, the first by id
        order = sorted(range(len(chosen)), key=lambda at: (-scores[at], ids[at]))
        return [order[at] for at in diverse([scores[at] for at in order], vectors[order], wanted, weight)]


class CollectionWriter(CollectionReader):
    """Commits to a collection's table, and follows each commit. The writers' lock is held."""

    async def schema(self) -> pa.Schema:
        return await self.table.schema()

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
