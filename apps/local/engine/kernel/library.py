"""The kernels' shared library: loaded, its C structures mirrored, and checked against float arithmetic before use.

Packing in numpy is what kernel/pack.h is compared with, to the bit, at each load and in the tests. The grids of the
quantized weights: groups of 32 along the inputs, each with a float16 step and minimum, w = step * q + minimum with q of
4 or 8 bits. This is the information of GGUF's Q4_1: weights that were dequantized from such blocks come out as the very
blocks they were. kernel/linear.h describes the layouts of a linear layer's weights from the other side.
"""

import ctypes
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np

from apps.local.engine.port import NoKernel

GROUP = 32
Bits = Literal[4, 8]


def quantize(weights: Any, bits: Bits) -> tuple[Any, Any, Any]:
    """``weights`` float32 [n, k], k a multiple of 32 -> q uint8 [n, k], step and minimum float16 [n, k / 32].

    Raises ValueError where a weight is not finite or beyond float16's range.
    """
    rows, columns = weights.shape
    groups = weights.reshape(rows, columns // GROUP, GROUP)
    # -0 becomes 0: which of the two is the smallest is not defined
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


POINTER = ctypes.c_void_p
INT = ctypes.c_int64
# int8 inputs by groups of 32 are off by half a percent; a wrong layout by more than a hundred
TOLERANCE = {Kind.INT4: 0.02, Kind.INT8: 0.02, Kind.BF16: 0.01, Kind.FP32: 1e-5}
# a checkpoint's types that can be packed, by safetensors' names; the numbers are the kernels'
TYPES: Mapping[str, int] = {"F32": 0, "F16": 1, "BF16": 2}


class CLinear(ctypes.Structure):
    _fields_ = (("data", POINTER), ("bias", POINTER), ("n", INT), ("k", INT), ("kind", ctypes.c_int32))


class CLayer(ctypes.Structure):
    _fields_ = (
        *((name, CLinear) for name in ("qkv", "o", "gate_up", "down")),
        *((name, POINTER) for name in ("input_norm", "post_norm", "q_norm", "k_norm")),
    )


class CModel(ctypes.Structure):
    _fields_ = (
        *((name, INT) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "context")),
        ("layer", ctypes.POINTER(CLayer)),
        ("head", CLinear),
        *((name, POINTER) for name in ("final_norm", "cos", "sin")),
        ("cache", ctypes.c_int32),
        ("eps", ctypes.c_float),
    )


class CRows(ctypes.Structure):
    _fields_ = (
        *((name, INT) for name in ("rows", "wanted")),
        *((name, POINTER) for name in ("position", "want", "embedded", "cache", "logits")),
    )


def load_library(path: Path) -> ctypes.CDLL:
    """Raises NoKernel where it cannot be loaded, or computes something else than float arithmetic does."""
    try:
        library = ctypes.CDLL(str(path))
        _declare(library)
        refused = library.kernel_permission()
    except (OSError, AttributeError) as error:
        raise NoKernel(f"{path.name} cannot be loaded: {error}") from error
    if refused:
        raise NoKernel(f"{path.name} may not be used: the system does not permit its registers")
    _self_check(library, path.name)
    return library


def compiler_of(library: ctypes.CDLL) -> str:
    """Its name and version; clang's has where it was made behind that."""
    version: bytes = library.kernel_compiler()
    return version.decode().partition(" (")[0]


def linear_once(library: ctypes.CDLL, packed: Any, kind: Kind, x: Any, bias: Any = None) -> Any:
    """``x`` float32 [rows, k] times packed weights, on the calling thread: float32 [rows, padded n]."""
    x = np.ascontiguousarray(x, np.float32)
    rows, inputs = x.shape
    outputs = len(packed) * 16
    layer = CLinear(packed.ctypes.data, None if bias is None else bias.ctypes.data, outputs, inputs, kind)
    result = np.empty((rows, outputs), np.float32)
    library.linear_once(ctypes.byref(layer), rows, x.ctypes.data, result.ctypes.data)
    return result


def pack_blocks(library: ctypes.CDLL, rows: Any, types: Any, inputs: int, kind: Kind) -> Any:
    """Packs linear layers' outputs, on the calling thread, which lets others run: uint8 of ``packed_shape``.

    ``rows`` int64 are the addresses of the outputs' values, a multiple of 16, with 0 for zeros; ``types`` int32 their
    numbers in TYPES. Raises ValueError where a weight cannot be quantized.
    """
    packed = np.empty(packed_shape(kind, len(rows), inputs), np.uint8)
    if library.pack_blocks(rows.ctypes.data, types.ctypes.data, len(packed), inputs, kind, packed.ctypes.data):
        raise ValueError("a weight is not finite, or beyond float16's range")
    return packed


def _declare(library: ctypes.CDLL) -> None:
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "kernel_permission": (ctypes.c_int, []),
        "kernel_compiler": (ctypes.c_char_p, []),
        "engine_new": (POINTER, [ctypes.POINTER(CModel), ctypes.c_int, INT]),
        "engine_free": (None, [POINTER]),
        "engine_team": (ctypes.c_int, [POINTER]),
        "engine_step": (None, [POINTER, ctypes.POINTER(CRows)]),
        "linear_once": (None, [ctypes.POINTER(CLinear), INT, POINTER, POINTER]),
        "pack_blocks": (ctypes.c_int, [POINTER, POINTER, INT, INT, ctypes.c_int32, POINTER]),
        "block_positions": (INT, []),
        "all_finite": (ctypes.c_int, [POINTER, ctypes.c_int32, INT]),
    }
    for name, (result, arguments) in signatures.items():
        function: Callable[..., Any] = getattr(library, name)
        function.restype = result  # type: ignore[attr-defined]
        function.argtypes = arguments  # type: ignore[attr-defined]


def _self_check(library: ctypes.CDLL, name: str) -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal((48, 96)).astype(np.float32)
    for kind in Kind:
        weights_seen = weights
        if kind is Kind.INT4:
            # on the grid already, so that only the inputs are rounded
            weights_seen = np.clip(np.rint(weights * 4), -7, 8).astype(np.float32)
            weights_seen[:, ::32], weights_seen[:, 1::32] = -7, 8
        packed = pack(weights_seen, kind)
        rows_at = weights_seen.ctypes.data + np.arange(48, dtype=np.int64) * weights_seen.strides[0]
        if not np.array_equal(pack_blocks(library, rows_at, np.zeros(48, np.int32), 96, kind), packed):
            raise NoKernel(f"{name} packs {kind.name} wrongly")
        for rows in (1, 2, 5, 19):
            x = random.standard_normal((rows, 96)).astype(np.float32)
            got, expected = linear_once(library, packed, kind, x), x @ weights_seen.T
            error = float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
            if not error < TOLERANCE[kind]:
                raise NoKernel(f"{name} computes {kind.name} with {rows} rows wrongly: off by {error:.3g}")
