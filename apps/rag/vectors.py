"""Vectors as numpy's arrays: their likeness, and maximal marginal relevance. Imported at its first use.

Vectors stay arrays: as Python's own floats they would take eight times the memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = Sequence[Sequence[float] | NDArray[Any]] | NDArray[Any]


def as_array(vectors: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    return np.asarray(vectors, dtype=np.float32)


def cosines(query: Sequence[float], vectors: Vectors) -> list[float]:
    return [float(value) for value in _unit(np.asarray(vectors)) @ _unit(np.asarray([query]))[0]]


def diverse(relevance: Sequence[float], vectors: Vectors, wanted: int, weight: float) -> list[int]:
    """Maximal marginal relevance: indices, best first; each next one is relevant and unlike those before it.

    ``weight`` is the method's lambda. Relevance is scaled to 0..1, so that it can be weighed against a cosine.
    """
    if not len(vectors):
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


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = wide / np.where(lengths > 0, lengths, 1)
    return unit
