"""Measures of a ranking with one right answer: recall@5, nDCG@10 and MRR, and the fusion of two rankings. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RECALL_AT = 5
NDCG_AT = 10


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over ``questions`` questions. Alternatives count as one answer: the first of them that is found."""

    questions: int
    recall: float
    ndcg: float
    mrr: float


def quality(ranks: Sequence[int | None]) -> Quality:
    """Of the rank of each question's answer, from 1; None where it was not found at all."""
    count = max(len(ranks), 1)
    found = [rank for rank in ranks if rank is not None]
    return Quality(
        len(ranks),
        sum(rank <= RECALL_AT for rank in found) / count,
        sum(1 / math.log2(1 + rank) for rank in found if rank <= NDCG_AT) / count,
        sum(1 / rank for rank in found) / count,
    )


def rank_of(targets: frozenset[str], entries: Iterable[str]) -> int | None:
    """The first target's rank among the entries, each of which counts once: an entry may have several passages."""
    distinct = dict.fromkeys(entries)
    return next((rank for rank, entry in enumerate(distinct, 1) if entry in targets), None)


def fused(vector: Sequence[str], text: Sequence[str], constant: int, weight: float) -> list[str]:
    """Reciprocal rank fusion of passages' ids as the library makes it; ``weight`` is the text's, the vectors' is 1."""
    scores = {id: 1 / (constant + 1 + rank) for rank, id in enumerate(vector)}
    for rank, id in enumerate(text):
        scores[id] = scores.get(id, 0.0) + weight / (constant + 1 + rank)
    return sorted(scores, key=lambda id: (-scores[id], id))
