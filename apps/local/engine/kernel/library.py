"""The kernels' shared library: loaded, its C structures mirrored, and checked against float arithmetic before use."""

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apps.local.engine.kernel.errors import NoKernel
from apps.local.engine.kernel.packing import Kind, pack, packed_shape

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
        "engine_new": (POINTER, [ctypes.POINTER(CModel), ctypes.c_int, INT]),
        "engine_free": (None, [POINTER]),
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
