"""The two halves of a search on one version of a table: nearest vectors, and BM25. Candidates come with vectors."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.rag.index.rows import PASSAGE
from apps.rag.index.upkeep import TEXT_INDEX

if TYPE_CHECKING:
    from lancedb.table import AsyncTable

# with about a thousand rows a partition: 20,000 rows are looked at closely
PROBES = 20
# the index compresses vectors; so many times the wanted rows are compared again in full
REFINE = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row of the table; of the two ranks, from 0, at least one is known."""

    row: dict[str, Any]
    vector: Sequence[float]
    vector_rank: int | None
    text_rank: int | None
    text_score: float | None


async def candidates(
    table: "AsyncTable", text: str | None, vector: Sequence[float] | None, where: str | None, wanted: int
) -> list[Candidate]:
    """Of each half up to ``wanted``; a half whose query is None is left out."""
    near, said = await asyncio.gather(_near(table, vector, where, wanted), _said(table, text, where, wanted))
    vector_ranks = {row["id"]: rank for rank, row in enumerate(near)}
    text_ranks = {row["id"]: rank for rank, row in enumerate(said)}
    rows = {row["id"]: row for row in [*near, *said]}
    scores = {row["id"]: row["_score"] for row in said}
    return [
        Candidate(row, row["vector"], vector_ranks.get(key), text_ranks.get(key), scores.get(key))
        for key, row in rows.items()
    ]


async def _near(
    table: "AsyncTable", vector: Sequence[float] | None, where: str | None, wanted: int
) -> list[dict[str, Any]]:
    if vector is None:
        return []
    query = table.query().nearest_to(list(vector)).distance_type("cosine").nprobes(PROBES).refine_factor(REFINE)
    query = query.limit(wanted).select([*PASSAGE, "vector", "_distance"])
    found: list[dict[str, Any]] = await (query if where is None else query.where(where)).to_list()
    return found


async def _said(table: "AsyncTable", text: str | None, where: str | None, wanted: int) -> list[dict[str, Any]]:
    from lancedb.query import MatchQuery

    if text is None or TEXT_INDEX not in {index.name for index in await table.list_indices()}:
        # the index comes before the first row: without it, the table is empty
        return []
    # words to match and nothing else: no syntax in it
    query = table.query().nearest_to_text(MatchQuery(text, "text")).limit(wanted)
    query = query.select([*PASSAGE, "vector", "_score"])
    found: list[dict[str, Any]] = await (query if where is None else query.where(where)).to_list()
    return found
