"""Memory of sequences' keys and values in blocks of positions, which sequences take from one pool as they grow."""

import mmap
from typing import Any

import numpy as np


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
