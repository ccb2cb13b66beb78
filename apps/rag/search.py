"""A search from its words to its passages: candidates of both halves, fused, reranked, made diverse."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from apps.core.errors import InternalError, InvalidType, InvalidValue
from apps.core.ports import Embedder
from apps.rag.filters import compile_filter
from apps.rag.index.columns import Columns, columns_of
from apps.rag.index.database import Database, refuse_mix
from apps.rag.index.rows import passage_of
from apps.rag.index.searching import Candidate, candidates
from apps.rag.ports import Reranker
from apps.rag.ranking import Ranking, cosines, diverse
from apps.rag.records import Passage, SearchMode

if TYPE_CHECKING:
    from apps.rag.ranking import Vector

LONGEST_QUERY = 10_000


@dataclass(frozen=True, slots=True)
class Query:
    """A call, checked."""

    text: str
    top_k: int
    filter: Mapping[str, Any] | None
    mode: SearchMode
    mmr: float | None


def checked(
    text: str, top_k: int, most: int, filter: Mapping[str, Any] | None, mode: SearchMode, mmr: float | None
) -> Query:
    if not isinstance(text, str):
        raise InvalidType("Query must be a string", field="query")
    if not text.strip() or len(text) > LONGEST_QUERY:
        raise InvalidValue(f"Query must be 1 to {LONGEST_QUERY} characters, not only white space", field="query")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidValue("Query must be valid Unicode", field="query")
    if isinstance(top_k, bool) or not isinstance(top_k, int):
        raise InvalidType("top_k must be an integer", field="top_k")
    if not 1 <= top_k <= most:
        details = {"min": 1, "max": most, "received": top_k}
        raise InvalidValue(f"top_k must be between 1 and {most}", field="top_k", details=details)
    if mode not in ("hybrid", "vector", "text"):
        raise InvalidValue("mode is hybrid, vector or text", field="mode")
    if mmr is not None and not 0 <= mmr <= 1:
        raise InvalidValue("mmr must be between 0 and 1", field="mmr")
    compile_filter(filter, Columns())
    return Query(text, top_k, filter, mode, mmr)


class Search:
    """``ranking`` holds the knobs; ``outdated`` is told of a collection whose metadata is not in columns yet."""

    def __init__(
        self,
        database: Database,
        embedder: Embedder,
        reranker: Reranker | None,
        ranking: Ranking,
        outdated: Callable[[str, str], None],
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._reranker = reranker
        self._ranking = ranking
        self._outdated = outdated

    async def run(self, tenant: str, collection: str, query: Query) -> list[Passage]:
        table = await self._database.reading(tenant, collection)
        columns = columns_of(await table.schema())
        where = compile_filter(query.filter, columns)
        if where is not None and not columns.marked:
            self._outdated(tenant, collection)
        vector = None
        if query.mode != "text":
            await refuse_mix(table, self._embedder.name, self._embedder.dimensions)
            vector = await self._vector(query.text)
        wanted = max(self._ranking.candidates, 4 * query.top_k)
        words = None if query.mode == "vector" else query.text
        try:
            # one version of the table for both halves: no commit between them can be seen
            found = await candidates(table, words, vector, where, wanted)
        except (RuntimeError, OSError, ValueError) as error:
            # deleted while it was searched, or broken
            await self._database.reading(tenant, collection)
            raise InternalError(
                "The collection could not be searched", details={"cause": type(error).__name__}
            ) from error
        passages, vectors = self._ordered(found, query, vector)
        if self._reranker is not None and passages:
            passages, vectors = await self._reranked(query.text, passages, vectors)
        if query.mmr is None:
            return passages[: query.top_k]
        scores = [passage.score for passage in passages]
        return [passages[index] for index in diverse(scores, vectors, query.top_k, query.mmr)]

    async def _vector(self, text: str) -> Sequence[float]:
        try:
            [vector] = await self._embedder.embed([text])
        except InvalidValue as error:
            raise InvalidValue(error.message, field="query", details=error.details) from error
        return vector

    def _ordered(
        self, found: Sequence[Candidate], query: Query, vector: Sequence[float] | None
    ) -> tuple[list[Passage], list["Vector"]]:
        if not found:
            return [], []
        alike = None if vector is None else cosines(vector, [candidate.vector for candidate in found])
        scored: list[tuple[Passage, Vector]] = []
        for index, candidate in enumerate(found):
            cosine = alike[index] if alike is not None else None
            by_mode = {
                "hybrid": self._ranking.fused(candidate.vector_rank, candidate.text_rank),
                "vector": cosine,
                "text": candidate.text_score,
            }
            passage = replace(
                passage_of(candidate.row, score=by_mode[query.mode] or 0.0),
                vector_score=cosine,
                text_score=candidate.text_score,
                text_rank=None if candidate.text_rank is None else candidate.text_rank + 1,
            )
            scored.append((passage, candidate.vector))
        scored.sort(key=lambda pair: (-pair[0].score, pair[0].id))
        return [passage for passage, _ in scored], [vector for _, vector in scored]

    async def _reranked(
        self, text: str, passages: list[Passage], vectors: list["Vector"]
    ) -> tuple[list[Passage], list["Vector"]]:
        assert self._reranker is not None  # noqa: S101 - the caller has looked
        scores = await self._reranker.rerank(text, passages)
        order = sorted(range(len(passages)), key=lambda index: (-scores[index], passages[index].id))
        return [replace(passages[index], score=scores[index]) for index in order], [vectors[index] for index in order]
