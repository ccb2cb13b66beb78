"""Packing in numpy: what kernel/pack.h does is compared with it, to the bit, at each load and in the tests.

The grids of the quantized weights: groups of 32 along the inputs, each with a float16 step and minimum, w = step * q +
minimum with q of 4 or 8 bits. This is the information of GGUF's Q4_1: weights that were dequantized from such blocks
come out as the very blocks they were.

The kernels' layouts of a linear layer's weights; kernel/linear.h describes them from the other side.
"""

from enum import IntEnum
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
    # -0 becomes 0: which of the two is the smallest is nobody's promise
    low, high = (edge + np.float32(0) for edge in (groups.min(axis=-1), groups.max(axis=-1)))
    if not (np.isfinite(low).all() and np.isfinite(high).all() and max(-low.min(), high.max()) < 65504):
        raise ValueError("a weight is not finite, or beyond float16's range")
    top = (1 << bits) - 1
    step = ((high - low) / top).astype(np.float16)
    minimum = low.astype(np.float16)
    # in float32: in float16 a step below 1.6e-5 has no inverse
    inverse = np.divide(np.float32(1), step.astype(np.float32), out=np.zeros(step.shape, np.float32), where=step > 0)
    scaled = (groups - minimum.astype(np.float32)[..., None]) * inverse[..., None]
    q = np.clip(np.rint(scaled, out=scaled), 0, top, out=scaled).astype(np.uint8)
    return q.reshape(rows, columns), step, minimum


def dequantize(q: Any, step: Any, minimum: Any) -> Any:
    """The float32 weights [n, k] that ``q`` stands for."""
    groups = q.reshape(*step.shape, GROUP).astype(np.float32)
    return (groups * step.astype(np.float32)[..., None] + minimum.astype(np.float32)[..., None]).reshape(q.shape)


BLOCK = 16


class Kind(IntEnum):
    """How a linear layer's weights are kept; the numbers are the kernels'."""

    INT4 = 0
    INT8 = 1
    BF16 = 2
    FP32 = 3


def packed_shape(kind: Kind, outputs: int, inputs: int) -> tuple[int, int]:
    """Blocks of 16 outputs, bytes to a block."""
    blocks = -(-outputs // BLOCK)
    if kind is Kind.INT4:
        return blocks, inputs // GROUP * 320
    if kind is Kind.INT8:
        return blocks, inputs // GROUP * 576
    return blocks, inputs * BLOCK * (2 if kind is Kind.BF16 else 4)


def pack(weights: Any, kind: Kind) -> Any:
    """``weights`` float32 [n, k] -> uint8 of ``packed_shape``; outputs are padded with zeros to whole blocks.

    Raises ValueError where the weights cannot be quantized.
    """
    outputs, inputs = weights.shape
    if outputs % BLOCK:
        weights = np.concatenate([weights, np.zeros((-outputs % BLOCK, inputs), np.float32)])
    blocks = weights.shape[0] // BLOCK
    if kind is Kind.INT4 or kind is Kind.INT8:
        return _pack_quantized(weights, kind, blocks)
    columns = np.ascontiguousarray(weights.reshape(blocks, BLOCK, inputs).swapaxes(1, 2))
    if kind is Kind.BF16:
        # two inputs of one output side by side
        columns = np.ascontiguousarray(to_bf16(columns).reshape(blocks, inputs // 2, 2, BLOCK).swapaxes(2, 3))
    return columns.view(np.uint8).reshape(blocks, -1)


def _pack_quantized(weights: Any, kind: Kind, blocks: int) -> Any:
    q, step, minimum = quantize(weights, 4 if kind is Kind.INT4 else 8)
    groups = step.shape[1]
    # a plane: 4 x 64 bytes, each of 16 outputs x 4 inputs; two runs of 4 inputs share a byte
    order = q.reshape(blocks, BLOCK, groups, 4, 2, 4).transpose(0, 2, 3, 4, 1, 5)
    order = np.ascontiguousarray(order).reshape(blocks, groups, 4, 2, 4 * BLOCK)
    planes = [order] if kind is Kind.INT4 else [order >> 4, order & 15]
    nibbles = [(plane[:, :, :, 0] | plane[:, :, :, 1] << 4).reshape(blocks, groups, 256) for plane in planes]
    edges = [
        np.ascontiguousarray(values.reshape(blocks, BLOCK, groups).swapaxes(1, 2)).view(np.uint8)
        for values in (step, minimum)
    ]
    return np.concatenate([*nibbles, *edges], axis=-1).reshape(blocks, -1)


def to_bf16(values: Any) -> Any:
    """float32 rounded to the nearest bfloat16, as uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)
