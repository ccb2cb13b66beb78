"""A search from its words to its passages: candidates of both halves, fused, reranked, made diverse.

The halves' ranks are fused by reciprocal rank fusion; maximal marginal relevance makes the order diverse.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from apps.core.errors import InternalError, InvalidType, InvalidValue
from apps.core.ports import Embedder, KnowsWords, Reranker
from apps.rag.index.database import Database, refuse_mix
from apps.rag.index.filters import Columns, compile_filter
from apps.rag.normalization import normalized
from apps.rag.records import Passage, SearchMode
from apps.rag.relevance import CALIBRATED, QuestionTerms

if TYPE_CHECKING:
    from apps.rag.index.table import Candidate, CollectionReader, Hits


@dataclass(frozen=True, slots=True)
class Ranking:
    """The knobs of a search."""

    candidates: int = 50
    """Of each half, at least; four times what is asked for where that is more."""
    fusion: int = 5
    """The constant of reciprocal rank fusion: how little a few ranks matter. With 60, its authors', and equal weights
    hybrid search was little better than vectors alone (eval/rag_eval.py)."""
    vector_weight: float = 1.0
    text_weight: float = 0.5
    phrases: int = 20
    """So many of the best by words are looked at for the whole question as a phrase; those that have it come first."""
    longest_phrase: int = 100
    """Characters: what is longer is no phrase that stands anywhere."""

    def fused(self, vector_rank: int | None, text_rank: int | None, known: float = 1.0) -> float:
        """Reciprocal rank fusion. Ranks count from 0; None is in a half that did not find it.

        ``known`` is the share of the question that the embedding knows: of the rest, its order says nothing.
        """
        weighted = ((self.vector_weight * known, vector_rank), (self.text_weight, text_rank))
        return sum(weight / (self.fusion + 1 + rank) for weight, rank in weighted if rank is not None)


T = TypeVar("T")
LONGEST_QUERY = 10_000
EXACT = 1.0
"""Above every sum of fused ranks."""


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
    """``ranking`` holds the knobs; ``outdated`` is called with a collection whose metadata is not in columns yet."""

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
        columns = await table.columns()
        where = compile_filter(query.filter, columns)
        if where is not None and not columns.marked:
            self._outdated(tenant, collection)
        wanted = max(self._ranking.candidates, 4 * query.top_k)
        # one version of the table for all of it: no commit between its parts can be seen; the words are looked for
        # while the question is embedded
        try:
            async with asyncio.TaskGroup() as group:
                nearest = group.create_task(self._nearest(table, tenant, collection, query, where, wanted))
                matching = group.create_task(self._matching(table, tenant, collection, query, where, wanted))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        near, matches = nearest.result(), matching.result()
        ranked = self._ranked(table.candidates(near.hits, matches.hits), query, matches.exact, 1 - near.unknown)
        if self._reranker is not None and ranked:
            passages = await self._read(tenant, collection, _passages(table, ranked, near.vector))
            texts = ["\n".join((*passage.headings, passage.text)) for passage in passages]
            scores = (await self._reranker.rerank(query.text, texts)).scores
            again = [replace(one, score=score) for one, score in zip(ranked, scores, strict=True)]
            ranked = sorted(again, key=_best_first)
        selected = await self._read(tenant, collection, _selected(table, ranked, query))
        passages = await self._read(tenant, collection, _passages(table, selected, near.vector))
        if query.mmr is None:
            # by their ids where they are as good as each other: rows may change their places
            passages = sorted(passages, key=lambda passage: (-passage.score, passage.id))[: query.top_k]
        return _judged(passages, query.text, near.unknown)

    async def _nearest(
        self, table: "CollectionReader", tenant: str, collection: str, query: Query, where: str | None, wanted: int
    ) -> "_Nearest":
        if query.mode == "text":
            return _Nearest({}, None, await self._unknown(query.text))
        await refuse_mix(table, self._embedder.name, self._embedder.dimensions)
        vector = await self._vector(query.text)
        reading = self._read(tenant, collection, table.nearest(vector, where, wanted))
        hits, unknown = await asyncio.gather(reading, self._unknown(query.text))
        return _Nearest(hits, vector, unknown)

    async def _matching(
        self, table: "CollectionReader", tenant: str, collection: str, query: Query, where: str | None, wanted: int
    ) -> "_Matching":
        """A phrase is looked for in a hybrid search, and not where the query is long."""
        if query.mode == "vector":
            return _Matching({}, set())
        hits = await self._read(tenant, collection, table.matching(query.text, where, wanted))
        if query.mode != "hybrid" or len(query.text) > self._ranking.longest_phrase:
            return _Matching(hits, set())
        best = list(islice(hits, self._ranking.phrases))
        return _Matching(hits, await self._read(tenant, collection, table.with_phrase(best, query.text)))

    async def _unknown(self, question: str) -> float:
        """The share of the question's tokens that the embedding does not know."""
        if not isinstance(self._embedder, KnowsWords):
            return 0.0
        [unknown] = await self._embedder.unknown_shares([normalized(question)])
        return unknown

    async def _read(self, tenant: str, collection: str, reading: Awaitable[T]) -> T:
        try:
            return await reading
        except (RuntimeError, OSError, ValueError) as error:
            # deleted while it was searched, or broken
            await self._database.reading(tenant, collection)
            raise InternalError(
                "The collection could not be searched", details={"cause": type(error).__name__}
            ) from error

    async def _vector(self, text: str) -> Sequence[float]:
        try:
            [vector] = await self._embedder.embed([normalized(text)])
        except InvalidValue as error:
            raise InvalidValue(error.message, field="query", details=error.details) from error
        return vector

    def _ranked(
        self, found: "Sequence[Candidate]", query: Query, exact: Collection[int], known: float
    ) -> list["_Ranked"]:
        """Best first. ``exact`` are rows with the query as a phrase, ``known`` the share that the embedding knows."""
        ranked: list[_Ranked] = []
        for candidate in found:
            by_mode = {
                "hybrid": self._ranking.fused(candidate.vector_rank, candidate.text_rank, known)
                + (EXACT if candidate.row in exact else 0),
                "vector": candidate.cosine,
                "text": candidate.text_score,
            }
            ranked.append(_Ranked(candidate, by_mode[query.mode] or 0.0))
        return sorted(ranked, key=_best_first)


def _judged(passages: list[Passage], question: str, unknown: float) -> list[Passage]:
    """With their relevance."""
    terms = QuestionTerms(question)

    def relevance(passage: Passage) -> float:
        text = "\n".join((passage.name, *passage.headings, passage.text))
        return CALIBRATED(terms.evidence(text, passage.vector_score, unknown))

    return [replace(passage, relevance=round(relevance(passage), 4)) for passage in passages]


@dataclass(frozen=True, slots=True)
class _Nearest:
    """What the vectors' half found, and how much of the question it could know."""

    hits: "Hits"
    vector: Sequence[float] | None
    unknown: float
    """Share of the question's tokens that the embedding does not know."""


@dataclass(frozen=True, slots=True)
class _Matching:
    """What the words' half found."""

    hits: "Hits"
    exact: Collection[int]
    """The rows of passages that have the whole question as a phrase."""


@dataclass(frozen=True, slots=True)
class _Ranked:
    candidate: "Candidate"
    score: float


def _best_first(one: _Ranked) -> tuple[float, int]:
    return -one.score, one.candidate.row


async def _selected(table: "CollectionReader", ranked: Sequence[_Ranked], query: Query) -> Sequence[_Ranked]:
    """``top_k`` of them, and those that are as good as the last; with ``mmr``, relevant ones unlike each other."""
    if query.mmr is None:
        best = ranked[: query.top_k]
        return [one for one in ranked if one.score >= best[-1].score] if best else best
    found, scores = [one.candidate for one in ranked], [one.score for one in ranked]
    return [ranked[index] for index in await table.diverse(found, scores, query.top_k, query.mmr)]


async def _passages(
    table: "CollectionReader", ranked: Sequence[_Ranked], vector: Sequence[float] | None
) -> list[Passage]:
    passages = await table.candidate_passages([one.candidate for one in ranked], vector)
    return [
        replace(
            passage,
            score=one.score,
            vector_score=cosine,
            text_score=one.candidate.text_score,
            text_rank=None if one.candidate.text_rank is None else one.candidate.text_rank + 1,
        )
        for (passage, cosine), one in zip(passages, ranked, strict=True)
    ]
