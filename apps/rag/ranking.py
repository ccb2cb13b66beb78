"""From candidates to an order: fusion of the two halves' ranks, and maximal marginal relevance. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = Sequence[float] | NDArray[Any]


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


def cosines(query: Sequence[float], vectors: "Sequence[Vector]") -> list[float]:
    import numpy as np

    return [float(value) for value in _unit(np.asarray(vectors)) @ _unit(np.asarray([query]))[0]]


def diverse(relevance: Sequence[float], vectors: "Sequence[Vector]", wanted: int, weight: float) -> list[int]:
    """Maximal marginal relevance: indices, best first; each next one is relevant and unlike those before it.

    ``weight`` is the method's lambda. Relevance is scaled to 0..1, so that it can be weighed against a cosine.
    """
    import numpy as np

    if not vectors:
        return []
    scores = np.asarray(relevance, dtype=np.float64)
    spread = scores.max() - scores.min()
    scores = (scores - scores.min()) / spread if spread > 0 else np.ones_like(scores)
    units = _unit(np.asarray(vectors))
    likeness = np.full(len(scores), -np.inf)
    order: list[int] = []
    while len(order) < min(wanted, len(scores)):
        gain = weight * scores - (1 - weight) * np.where(np.isinf(likeness), 0, likeness)
        gain[order] = -np.inf
        chosen = int(gain.argmax())
        order.append(chosen)
        likeness = np.maximum(likeness, units @ units[chosen])
    return order


def _unit(vectors: "NDArray[Any]") -> "NDArray[np.float64]":
    import numpy as np

    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = wide / np.where(lengths > 0, lengths, 1)
    return unit
