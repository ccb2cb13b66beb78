"""The two halves of a search on one version of a table: nearest vectors, and BM25. Candidates come with vectors."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.rag.index.rows import PASSAGE
from apps.rag.index.upkeep import TEXT_INDEX

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import AsyncTable
    from numpy import float32
    from numpy.typing import NDArray

# with about a thousand rows a partition: 20,000 rows are looked at closely
PROBES = 20
# the index compresses vectors; so many times the wanted rows are compared again in full
REFINE = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row of the table; of the two ranks, from 0, at least one is known."""

    row: dict[str, Any]
    vector: "NDArray[float32]"
    vector_rank: int | None
    text_rank: int | None
    text_score: float | None


Found = list[tuple[dict[str, Any], "NDArray[float32]"]]


async def candidates(
    table: "AsyncTable", text: str | None, vector: Sequence[float] | None, where: str | None, wanted: int
) -> list[Candidate]:
    """Of each half up to ``wanted``; a half whose query is None is left out."""
    near, said = await asyncio.gather(_near(table, vector, where, wanted), _said(table, text, where, wanted))
    vector_ranks = {row["id"]: rank for rank, (row, _) in enumerate(near)}
    text_ranks = {row["id"]: rank for rank, (row, _) in enumerate(said)}
    scores = {row["id"]: row["_score"] for row, _ in said}
    rows = {row["id"]: (row, vector) for row, vector in [*near, *said]}
    return [
        Candidate(row, vector, vector_ranks.get(key), text_ranks.get(key), scores.get(key))
        for key, (row, vector) in rows.items()
    ]


async def _near(table: "AsyncTable", vector: Sequence[float] | None, where: str | None, wanted: int) -> Found:
    if vector is None:
        return []
    query = table.query().nearest_to(list(vector)).distance_type("cosine").nprobes(PROBES).refine_factor(REFINE)
    query = query.limit(wanted).select([*PASSAGE, "vector", "_distance"])
    return _read(await (query if where is None else query.where(where)).to_arrow())


async def _said(table: "AsyncTable", text: str | None, where: str | None, wanted: int) -> Found:
    from lancedb.query import MatchQuery

    if text is None or TEXT_INDEX not in {index.name for index in await table.list_indices()}:
        # the index comes before the first row: without it, the table is empty
        return []
    # words to match and nothing else: no syntax in it
    query = table.query().nearest_to_text(MatchQuery(text, "text")).limit(wanted)
    query = query.select([*PASSAGE, "vector", "_score"])
    return _read(await (query if where is None else query.where(where)).to_arrow())


def _read(found: "pa.Table") -> Found:
    """Vectors stay arrays: as Python's own floats they would cost more than the search."""
    column = found.column("vector").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    return list(zip(found.drop_columns(["vector"]).to_pylist(), vectors, strict=True))
