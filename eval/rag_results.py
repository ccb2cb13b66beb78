"""From what was found to what is reported: choices on the tuning half, measures on the test half."""

from collections.abc import Sequence
from dataclasses import dataclass

from apps.rag.search import Ranking
from eval.rag_measures import RECALL_AT, Quality, quality
from eval.rag_questions import Split
from eval.rag_retrieval import Found, Ingested
from eval.rag_tuning import (
    THRESHOLDS,
    Fusion,
    Refusals,
    best_fusion,
    best_threshold,
    by_fusion,
    fusion_ranks,
    refusals,
    text_ranks,
    vector_ranks,
)

USUAL = Fusion(60, 1.0)
COSINE = 0.4
"""The threshold before relevance was judged by a rule (eval/rag/calibration.py)."""


@dataclass(frozen=True, slots=True)
class Run:
    """``own`` is the rank of each answer in the library's own hybrid search, of ``asked`` and then of ``summaries``."""

    ingested: Ingested
    asked: list[Found]
    summaries: list[Found]
    unanswerable: list[Found]
    own: list[int | None]


@dataclass(frozen=True, slots=True)
class Row:
    """One set of questions on the test half, by each way of searching."""

    name: str
    ways: dict[str, Quality]
    against_vector: tuple[int, int]
    """Questions that the library's hybrid search answers within RECALL_AT and vectors alone do not, and the reverse."""


@dataclass(frozen=True, slots=True)
class Results:
    ingested: Ingested
    library: Fusion
    """What the library fuses with."""
    tuned: Fusion
    """What this run would choose."""
    rows: list[Row]
    threshold: float
    on_test: Refusals
    default: Refusals
    """At COSINE."""
    curve: list[Refusals]
    agreeing: tuple[int, int]
    """Of how many questions the library's own search and the formula say the same within RECALL_AT, and of how many all
    in all. The library's passages end earlier, so that long entries leave room for fewer others."""

    @classmethod
    def of(cls, run: Run, ranking: Ranking) -> "Results":
        library = Fusion(ranking.fusion, ranking.text_weight / ranking.vector_weight)
        tuned = best_fusion([_half(run.asked, "tuning"), _half(run.summaries, "tuning")])
        answerable = [*run.asked, *run.summaries]
        own = dict(zip((found.question.text for found in answerable), run.own, strict=True))
        sets = {"questions": run.asked, "summaries": run.summaries, "both": answerable}
        rows = [_row(name, _half(founds, "test"), library, tuned, own) for name, founds in sets.items()]
        threshold = best_threshold(_half(run.asked, "tuning"), _half(run.unanswerable, "tuning"))
        test = _half(run.asked, "test"), _half(run.unanswerable, "test")
        agreeing = sum(_hit(a) == _hit(b) for a, b in zip(fusion_ranks(answerable, library), run.own, strict=True))
        return cls(
            run.ingested,
            library,
            tuned,
            rows,
            threshold,
            refusals(*test, threshold),
            refusals(*test, COSINE),
            [refusals(*test, other) for other in THRESHOLDS],
            (agreeing, len(answerable)),
        )


def _row(name: str, founds: Sequence[Found], library: Fusion, tuned: Fusion, own: dict[str, int | None]) -> Row:
    hybrid, vector = [own[found.question.text] for found in founds], vector_ranks(founds)
    hits = [(_hit(a), _hit(b)) for a, b in zip(hybrid, vector, strict=True)]
    ways = {
        "vectors alone": quality(vector),
        "BM25 alone": quality(text_ranks(founds)),
        f"hybrid, usual ({_words(USUAL)})": by_fusion(founds, USUAL),
        f"hybrid, as chosen ({_words(tuned)})": by_fusion(founds, tuned),
        f"**hybrid, the library's own ({_words(library)})**": quality(hybrid),
    }
    return Row(name, ways, (hits.count((True, False)), hits.count((False, True))))


def _half(founds: Sequence[Found], split: Split) -> list[Found]:
    return [found for found in founds if found.question.split == split]


def _hit(rank: int | None) -> bool:
    return rank is not None and rank <= RECALL_AT


def _words(fusion: Fusion) -> str:
    return f"k {fusion.constant}, weight of BM25 {fusion.weight:g}"
