"""The two halves of a search on one version of a table: nearest vectors, and BM25; and then what is shown of it.

Candidates come with their vectors and without their texts: reading the rows of all of them took as long as finding
them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from lancedb.query import MatchQuery
from lancedb.table import AsyncTable
from numpy import float32
from numpy.typing import NDArray

from apps.rag.index.rows import PASSAGE, WORDS
from apps.rag.index.writing import TEXT_INDEX, WORDS_INDEX
from apps.rag.normalization import holds_phrase, indexed
from apps.rag.vectors import cosines

# with about a thousand rows a partition: 20,000 rows are looked at closely, and more where a filter leaves too few
PROBES = 20
ALL = 0
# the index compresses vectors; so many times the wanted rows are compared again in full
REFINE = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """Of the two ranks, from 0, at least one is known."""

    id: str
    row: int
    """Where it is in this version of the table."""
    vector: NDArray[float32]
    cosine: float | None
    """Of its vector and the query's; None where the query has none."""
    vector_rank: int | None
    text_rank: int | None
    text_score: float | None


@dataclass(frozen=True, slots=True)
class _Hit:
    row: int
    vector: NDArray[float32]
    score: float


async def candidates(
    table: AsyncTable, text: str | None, vector: Sequence[float] | None, where: str | None, wanted: int
) -> list[Candidate]:
    """Of each half up to ``wanted``; a half whose query is None is left out."""
    near, said = await asyncio.gather(_near(table, vector, where, wanted), _said(table, text, where, wanted))
    vector_ranks, text_ranks = ({key: rank for rank, key in enumerate(half)} for half in (near, said))
    scores = {key: hit.score for key, hit in said.items()}
    hits = {**near, **said}
    alike = [None] * len(hits) if vector is None or not hits else cosines(vector, [hit.vector for hit in hits.values()])
    return [
        Candidate(key, hit.row, hit.vector, cosine, vector_ranks.get(key), text_ranks.get(key), scores.get(key))
        for (key, hit), cosine in zip(hits.items(), alike, strict=True)
    ]


async def rows_of(table: AsyncTable, chosen: Sequence[Candidate]) -> list[dict[str, Any]]:
    """What a passage is made of, in the order of the candidates. The table must be at the version they come from."""
    if not chosen:
        return []
    found = await table.take_row_ids([one.row for one in chosen]).select(PASSAGE).to_list()
    by_id = {row["id"]: row for row in found}
    return [by_id[one.id] for one in chosen]


async def phrased(table: AsyncTable, found: Sequence[Candidate], phrase: str) -> set[str]:
    """The ids of those in whose text the phrase stands."""
    if not found:
        return set()
    rows = await table.take_row_ids([one.row for one in found]).select(["id", "text"]).to_list()
    return {row["id"] for row in rows if holds_phrase(row["text"], phrase)}


async def _near(table: AsyncTable, vector: Sequence[float] | None, where: str | None, wanted: int) -> dict[str, _Hit]:
    if vector is None:
        return {}
    query = table.query().nearest_to(list(vector)).distance_type("cosine").refine_factor(REFINE)
    query = query.minimum_nprobes(PROBES).maximum_nprobes(PROBES if where is None else ALL).limit(wanted)
    query = query.select(["id", "vector", "_distance"]).with_row_id()
    return _read(await (query if where is None else query.where(where)).to_arrow(), "_distance")


async def _said(table: AsyncTable, text: str | None, where: str | None, wanted: int) -> dict[str, _Hit]:
    built = {index.name for index in await table.list_indices()}
    if text is None or not built & {TEXT_INDEX, WORDS_INDEX}:
        # the index comes before the first row: without it, the table is empty
        return {}
    column = WORDS if WORDS_INDEX in built else "text"
    # words to match and nothing else: no syntax in it
    query = table.query().nearest_to_text(MatchQuery(indexed(text), column)).limit(wanted)
    query = query.select(["id", "vector", "_score"]).with_row_id()
    return _read(await (query if where is None else query.where(where)).to_arrow(), "_score")


def _read(found: pa.Table, score: str) -> dict[str, _Hit]:
    """Vectors stay arrays: as Python's own floats they would cost more than the search."""
    column = found.column("vector").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    rest = (found.column(name).to_pylist() for name in ("id", "_rowid", score))
    return {key: _Hit(row, vector, of) for key, row, of, vector in zip(*rest, vectors, strict=True)}
