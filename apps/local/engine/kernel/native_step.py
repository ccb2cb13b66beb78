"""Step on the project's own kernels: one call into C++ a step, all layers, for every row at once."""

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from apps.core.messages import JsonObject
from apps.local.engine.batching.shape import Shape, rope_table
from apps.local.engine.batching.weights import Weights
from apps.local.engine.kernel.errors import NoKernel
from apps.local.engine.kernel.library import CLayer, CLinear, CModel, CRows
from apps.local.engine.kernel.packing import Kind


def anonymous_memory(size: int) -> mmap.mmap:
    """Zeros, a page at a time as they are touched."""
    if hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)


class NativeStep:
    """Implements Step. Not for several threads at once. Keys and values are float16 for quantized weights."""

    rows_independent = True

    def __init__(
        self,
        library: ctypes.CDLL,
        kernels: str,
        shape: Shape,
        weights: Weights,
        context_length: int,
        threads: int,
        max_rows: int,
    ) -> None:
        self.max_rows = max_rows
        self._kernels = kernels
        self._library = library
        self._shape = shape
        self._weights = weights
        self._context = -(-context_length // 16) * 16
        self._half = weights.parts["head"].kind in (Kind.INT4, Kind.INT8)
        self._kept: list[Any] = []
        self._threads = threads
        self._logits_width = len(weights.packed["head"]) * 16
        self._engine = library.engine_new(ctypes.byref(self._model()), threads, max_rows)
        if not self._engine:
            raise NoKernel(f"no memory or no threads for {max_rows} rows on {threads} threads")

    def new_cache(self) -> Any:
        """[layers, keys and values, kv heads, context x head_dim]; the memory is taken as it is written."""
        shape = self._shape
        heads = (shape.layers, 2, shape.kv_heads, self._context * shape.head_dim)
        element = np.dtype(np.float16 if self._half else np.float32)
        # not np.empty: it asks for huge pages, and the first token of each head would take whole ones
        memory = anonymous_memory(int(np.prod(heads, dtype=np.int64)) * element.itemsize)
        return np.frombuffer(memory, element).reshape(heads)

    def copy_prefix(self, source: Any, target: Any, tokens: int) -> None:
        # keys lie in runs of 16 positions
        values = -(-tokens // 16) * 16 * self._shape.head_dim
        target[..., :values] = source[..., :values]

    def read_block(self, cache: Any, start: int, stop: int) -> bytes:
        dim = self._shape.head_dim
        return bytes(np.ascontiguousarray(cache[..., start * dim : stop * dim]).data.cast("B"))

    def write_block(self, cache: Any, start: int, stop: int, values: Any) -> None:
        dim = self._shape.head_dim
        target = cache[..., start * dim : stop * dim]
        target[...] = np.frombuffer(values, cache.dtype).reshape(target.shape)

    def run(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any], wanted: Sequence[int]) -> Any:
        position, want = np.asarray(positions, np.int64), np.asarray(wanted, np.int64)
        embedded = self._weights.embedded(tokens)
        pointers = (ctypes.c_void_p * len(caches))(*[cache.ctypes.data for cache in caches])
        logits = np.empty((len(want), self._logits_width), np.float32)
        rows = CRows(
            *(len(position), len(want), position.ctypes.data, want.ctypes.data, embedded.ctypes.data),
            *(ctypes.addressof(pointers), logits.ctypes.data),
        )
        self._library.engine_step(self._engine, ctypes.byref(rows))
        return logits[:, : self._shape.vocabulary]

    def describe(self) -> JsonObject:
        return {
            "kernels": f"own, {self._kernels}",
            "threads": self._threads,
            "weights_bytes": self._weights.packed_bytes,
            "cache_type": "float16" if self._half else "float32",
        }

    def close(self) -> None:
        if self._engine:
            self._library.engine_free(self._engine)
            self._engine = None

    def _model(self) -> CModel:
        shape, weights = self._shape, self._weights
        layers = (CLayer * shape.layers)(*[self._layer(number) for number in range(shape.layers)])
        cos, sin = rope_table(shape.rope, shape.head_dim, self._context)
        self._kept += [layers, cos, sin]
        return CModel(
            *(shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.intermediate),
            self._context,
            layer=layers,
            head=self._linear("head"),
            final_norm=weights.norms["model.norm.weight"].ctypes.data,
            cos=cos.ctypes.data,
            sin=sin.ctypes.data,
            half_cache=int(self._half),
            eps=shape.norm_eps,
        )

    def _layer(self, number: int) -> CLayer:
        norms, at = self._weights.norms, f"model.layers.{number}."
        names = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
        pointers = [norms[key].ctypes.data if (key := f"{at}{name}.weight") in norms else None for name in names]
        return CLayer(*[self._linear(f"{number}.{name}") for name in ("qkv", "o", "gate_up", "down")], *pointers)

    def _linear(self, name: str) -> CLinear:
        part, packed, bias = self._weights.parts[name], self._weights.packed[name], self._weights.biases.get(name)
        return CLinear(
            packed.ctypes.data, None if bias is None else bias.ctypes.data, len(packed) * 16, part.inputs, part.kind
        )
