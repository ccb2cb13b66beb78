"""Choices that are made on the tuning half of the questions: the fusion's two numbers, and the threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.rag_measures import Quality, fused, quality, rank_of
from eval.rag_retrieval import Found

CONSTANTS = (1, 2, 5, 10, 20, 40, 60, 100)
WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
THRESHOLDS = tuple(step / 100 for step in range(20, 61))


@dataclass(frozen=True, slots=True)
class Fusion:
    constant: int
    weight: float


@dataclass(frozen=True, slots=True)
class Refusals:
    """Shares of questions: answerable ones that a threshold refuses, others that it lets through."""

    threshold: float
    refused: float
    let_through: float


def by_fusion(founds: Sequence[Found], fusion: Fusion) -> Quality:
    return quality(fusion_ranks(founds, fusion))


def fusion_ranks(founds: Sequence[Found], fusion: Fusion) -> list[int | None]:
    return [_rank(found, fused(found.vector, found.text, fusion.constant, fusion.weight)) for found in founds]


def vector_ranks(founds: Sequence[Found]) -> list[int | None]:
    return [_rank(found, found.vector) for found in founds]


def text_ranks(founds: Sequence[Found]) -> list[int | None]:
    return [_rank(found, found.text) for found in founds]


def best_fusion(sets: Sequence[Sequence[Found]]) -> Fusion:
    """The best mean of recall@5 over the sets, each of which counts the same; of equals, the better mean nDCG."""

    def worth(fusion: Fusion) -> tuple[float, float]:
        measured = [by_fusion(founds, fusion) for founds in sets]
        return round(sum(q.recall for q in measured), 6), sum(q.ndcg for q in measured)

    return max((Fusion(constant, weight) for constant in CONSTANTS for weight in WEIGHTS), key=worth)


def refusals(answerable: Sequence[Found], others: Sequence[Found], threshold: float) -> Refusals:
    refused = sum(found.cosine < threshold for found in answerable) / max(len(answerable), 1)
    let_through = sum(found.cosine >= threshold for found in others) / max(len(others), 1)
    return Refusals(threshold, refused, let_through)


def best_threshold(answerable: Sequence[Found], others: Sequence[Found]) -> float:
    """Where the two shares of mistakes are smallest together."""

    def mistakes(threshold: float) -> float:
        at = refusals(answerable, others, threshold)
        return at.refused + at.let_through

    return min(THRESHOLDS, key=mistakes)


def _rank(found: Found, ids: Sequence[str]) -> int | None:
    return rank_of(found.question.targets, (found.entries[id] for id in ids))
