"""Step on the project's own kernels: one call into C++ a step, all layers, for every row at once.

Sequences' keys and values lie in blocks of positions, which sequences take from one pool as they grow.
"""

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from apps.core.messages import JsonObject
from apps.local.engine.batching.shape import Shape, rope_table
from apps.local.engine.batching.weights import Weights
from apps.local.engine.kernel.library import CLayer, CLinear, CModel, CRows, Kind
from apps.local.engine.port import NoKernel


def anonymous_memory(size: int) -> mmap.mmap:
    """Zeros, a page at a time as they are touched."""
    if hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)


class BlockPool:
    """``count`` blocks of ``positions`` positions each. Of one thread."""

    def __init__(self, count: int, positions: int, block_bytes: int) -> None:
        self.positions = positions
        # not np.empty: it asks for huge pages, and the first token of each head would take whole ones
        self.memory = np.frombuffer(anonymous_memory(count * block_bytes), np.uint8).reshape(count, block_bytes)
        # those that were used last are taken first: their pages are there
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.positions)

    def reserve(self, cache: "BlockCache", tokens: int) -> bool:
        """Gives ``cache`` blocks for its first ``tokens`` positions; none where there are not enough."""
        missing = self.blocks_for(tokens) - len(cache.blocks)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            block = self._free.pop()
            cache.table[len(cache.blocks)] = self.memory[block].ctypes.data
            cache.blocks.append(block)
        return True

    def release(self, cache: "BlockCache", tokens: int) -> None:
        """Takes the blocks back that hold nothing of the first ``tokens`` positions."""
        while len(cache.blocks) > self.blocks_for(tokens):
            self._free.append(cache.blocks.pop())


class BlockCache:
    """A sequence's blocks in the order of its positions, and the table of their addresses that the kernels read."""

    __slots__ = ("blocks", "table")

    def __init__(self, most_blocks: int) -> None:
        self.blocks: list[int] = []
        self.table: Any = np.zeros(most_blocks, np.uint64)


class PooledBlocks:
    """The part of Step that is its caches' blocks: they come from ``_pool``, which the step makes."""

    _pool: BlockPool

    @property
    def free_blocks(self) -> int:
        return self._pool.free

    def blocks_for(self, tokens: int) -> int:
        return self._pool.blocks_for(tokens)

    def blocks_of(self, cache: BlockCache) -> int:
        return len(cache.blocks)

    def reserve(self, cache: BlockCache, tokens: int) -> bool:
        return self._pool.reserve(cache, tokens)

    def release(self, cache: BlockCache, tokens: int) -> None:
        self._pool.release(cache, tokens)


# how many whole sequences fit where the number of tokens is not given; memory is taken only as it is written
UNBOUNDED_SEQUENCES = 16
# a cache's elements: the kernels' number, numpy's type, the bytes of a position's scale
ELEMENTS = {"float32": (0, np.float32, 0), "float16": (1, np.float16, 0), "int8": (2, np.int8, 2)}


def cache_type_of(precision: str, kv: str) -> str:
    """What keys and values are kept in: ``kv``, or with auto float16 beside quantized weights, float32 beside exact."""
    return kv if kv != "auto" else "float16" if precision in ("int4", "int8") else "float32"


def cache_bytes(shape: Shape, cache_type: str) -> int:
    """Of one position, in all layers."""
    _, element, scale = ELEMENTS[cache_type]
    return shape.cache_values // shape.head_dim * (shape.head_dim * np.dtype(element).itemsize + scale)


class NativeStep(PooledBlocks):
    """Implements Step. Not for several threads at once. Caches take their memory in blocks from one pool.

    ``cached_tokens`` positions of all sequences together fit into it. ``cache_type`` is one of ELEMENTS.
    """

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
        cached_tokens: int | None = None,
        cache_type: str | None = None,
    ) -> None:
        self.max_rows = max_rows
        self._kernels = kernels
        self._library = library
        self._shape = shape
        self._weights = weights
        positions = int(library.block_positions())
        self._context = -(-context_length // positions) * positions
        quantized = weights.parts["head"].kind in (Kind.INT4, Kind.INT8)
        self._cache_type = cache_type or cache_type_of("int4" if quantized else "fp32", "auto")
        self._number, self._element, self._scale_bytes = ELEMENTS[self._cache_type]
        blocks = -(-(cached_tokens or UNBOUNDED_SEQUENCES * self._context) // positions)
        self._pool = BlockPool(blocks, positions, cache_bytes(shape, self._cache_type) * positions)
        self._kept: list[Any] = []
        self._threads = threads
        self._logits_width = len(weights.packed["head"]) * 16
        self._engine = library.engine_new(ctypes.byref(self._model()), threads, max_rows)
        if not self._engine:
            raise NoKernel(f"no memory or no threads for {max_rows} rows on {threads} threads")

    def new_cache(self) -> BlockCache:
        return BlockCache(self._context // self._pool.positions)

    def copy_prefix(self, source: BlockCache, target: BlockCache, tokens: int) -> None:
        self._need(target, tokens)
        for at in range(self._pool.blocks_for(tokens)):
            self._pool.memory[target.blocks[at]] = self._pool.memory[source.blocks[at]]

    def read_block(self, cache: BlockCache, start: int, stop: int) -> bytes:
        return b"".join(np.ascontiguousarray(part).tobytes() for part in self._parts(cache, start, stop))

    def write_block(self, cache: BlockCache, start: int, stop: int, values: Any) -> None:
        self._need(cache, stop)
        at = 0
        for part in self._parts(cache, start, stop):
            part[...] = np.frombuffer(values, part.dtype, part.size, at).reshape(part.shape)
            at += part.nbytes

    def _parts(self, cache: BlockCache, start: int, stop: int) -> list[Any]:
        """Views of positions of one block: elements [layers x 2 x kv heads, ...] and, where there are, their scales."""
        positions, dim = self._pool.positions, self._shape.head_dim
        block = self._pool.memory[cache.blocks[start // positions]]
        heads = block.reshape(self._shape.layers * 2 * self._shape.kv_heads, -1)
        begin, end, elements = start % positions, start % positions + stop - start, positions * dim
        size = np.dtype(self._element).itemsize
        parts = [heads[:, begin * dim * size : end * dim * size]]
        if self._scale_bytes:
            offset = elements * size
            parts.append(heads[:, offset + begin * self._scale_bytes : offset + end * self._scale_bytes])
        return parts

    def _need(self, cache: BlockCache, tokens: int) -> None:
        if not self._pool.reserve(cache, tokens):
            raise MemoryError(f"no {self._pool.blocks_for(tokens)} blocks of keys and values are free")

    def run(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any], wanted: Sequence[int]) -> Any:
        position, want = np.asarray(positions, np.int64), np.asarray(wanted, np.int64)
        embedded = self._weights.embedded(tokens)
        for at, cache in zip(positions, caches, strict=True):
            if at >= len(cache.blocks) * self._pool.positions:
                self._need(cache, at + 1)
        pointers = (ctypes.c_void_p * len(caches))(*[cache.table.ctypes.data for cache in caches])
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
            "cache_type": self._cache_type,
            "cached_tokens_at_most": self._pool.free * self._pool.positions,
        }

    @property
    def team(self) -> int:
        """How many of its threads compute: on Linux as many as there are cores for, beside other processes."""
        return int(self._library.engine_team(self._engine))

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
            cache=self._number,
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
