"""The grids of the quantized weights: groups of 32 along the inputs, each with a float16 step and minimum.

w = step * q + minimum with q of 4 or 8 bits. This is the information of GGUF's Q4_1: weights that were dequantized
from such blocks come out as the very blocks they were. Knows nothing of layouts.
"""

from typing import Any, Literal

import numpy as np

GROUP = 32
Bits = Literal[4, 8]


def quantize(weights: Any, bits: Bits) -> tuple[Any, Any, Any]:
    """``weights`` float32 [n, k], k a multiple of 32 -> q uint8 [n, k], step and minimum float16 [n, k / 32].

    Raises ValueError where a weight is not finite or beyond float16's range.
    """
    rows, columns = weights.shape
    groups = weights.reshape(rows, columns // GROUP, GROUP)
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and max(-low.min(), high.max()) < 65504):
        raise ValueError("a weight is not finite, or beyond float16's range")
    top = (1 << bits) - 1
    step = ((high - low) / top).astype(np.float16)
    minimum = low.astype(np.float16)
    inverse = np.divide(1, step, out=np.zeros(step.shape, np.float32), where=step > 0)
    scaled = (groups - minimum.astype(np.float32)[..., None]) * inverse[..., None]
    q = np.clip(np.rint(scaled, out=scaled), 0, top, out=scaled).astype(np.uint8)
    return q.reshape(rows, columns), step, minimum


def dequantize(q: Any, step: Any, minimum: Any) -> Any:
    """The float32 weights [n, k] that ``q`` stands for."""
    groups = q.reshape(*step.shape, GROUP).astype(np.float32)
    return (groups * step.astype(np.float32)[..., None] + minimum.astype(np.float32)[..., None]).reshape(q.shape)
