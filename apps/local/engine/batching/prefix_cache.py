"""The sequences' caches: a fixed number of them, each with the tokens whose keys and values it holds.

An answer that ends leaves its cache behind; the next prompt that begins alike goes on from there, or from a copy. The
least recently used one is given up first, or its blocks alone where those are short. So memory is bounded by the
number of caches and of blocks. A tenant never goes on from another one's cache: how fast an answer begins would tell
what others asked. Used by one thread; ``longest`` may be asked by others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from apps.local.engine.batching.prefix_store import BLOCK, PrefixStore, StoredPrefix
from apps.local.engine.batching.step import Step


@dataclass(eq=False, slots=True)
class Held:
    """``tokens`` are those that ``memory`` holds keys and values of, from position 0 on."""

    memory: Any
    tokens: list[int] = field(default_factory=list)
    tenant: str = ""
    busy: bool = False
    used: int = 0


class PrefixCache:
    """At most ``size`` caches; at least one of them must be free at each ``take``. ``store`` is the second floor."""

    def __init__(self, step: Step, size: int, store: PrefixStore | None = None) -> None:
        self._step = step
        self._size = size
        self._store = store
        self._held: list[Held] = []
        self._clock = count()

    def longest(self, prompt: Sequence[int], tenant: str) -> int:
        """How many tokens of ``prompt`` a cache holds, about: what it says may have changed already."""
        return self._longest(prompt, tenant)[1]

    def take(self, prompt: Sequence[int], tenant: str = "", stored: StoredPrefix | None = None) -> Held:
        """A cache that holds as much of the beginning of ``prompt`` as any does, but never its last token.

        ``stored`` is what the store has of it, and goes in where that is more.
        """
        held = self._take(prompt, tenant)
        held.tenant = tenant
        begin = len(held.tokens)
        if stored is not None and stored.begin <= begin < stored.end < len(prompt) and self.ensure(held, stored.end):
            for at, block in enumerate(stored.blocks):
                start = stored.begin + at * BLOCK
                if start + BLOCK > begin:
                    self._step.write_block(held.memory, start, start + BLOCK, block)
            held.tokens = list(prompt[: stored.end])
        return held

    def _take(self, prompt: Sequence[int], tenant: str) -> Held:
        best, shared = self._longest(prompt, tenant)
        if best is not None and not best.busy and shared * 2 >= len(best.tokens):
            return self._hand_out(best, shared)
        target = self._least_recently_used(best)
        if best is None or target is best:
            return self._hand_out(target, shared if target is best else 0)
        self._hand_out(target, 0)
        if self.ensure(target, shared, keep=best):
            self._step.copy_prefix(best.memory, target.memory, shared)
            target.tokens = best.tokens[:shared]
        return target

    def available_blocks(self) -> int:
        """Free ones, and those of caches that no answer uses."""
        return self._step.free_blocks + sum(self._step.blocks_of(held.memory) for held in self._held if not held.busy)

    def ensure(self, held: Held, tokens: int, keep: Held | None = None) -> bool:
        """Room for the first ``tokens`` positions of ``held``, at the cost of caches that no answer uses, oldest first.

        ``keep`` is spared. False where that is not enough.
        """
        while not self._step.reserve(held.memory, tokens):
            idle = [each for each in self._held if not each.busy and each is not keep and each is not held]
            idle = [each for each in idle if self._step.blocks_of(each.memory)]
            if not idle:
                return False
            oldest = min(idle, key=lambda each: each.used)
            oldest.tokens.clear()
            self._step.release(oldest.memory, 0)
        return True

    def give_back(self, held: Held, keep: bool = True) -> None:
        """``keep`` False: on disk nothing of it may be kept."""
        if self._store is not None and keep:
            self._store.keep(held.tenant, held.tokens, partial(self._step.read_block, held.memory))
        self._step.release(held.memory, len(held.tokens))
        held.busy = False
        held.used = next(self._clock)

    def _hand_out(self, held: Held, shared: int) -> Held:
        del held.tokens[shared:]
        self._step.release(held.memory, shared)
        held.busy = True
        held.used = next(self._clock)
        return held

    def _longest(self, prompt: Sequence[int], tenant: str) -> tuple[Held | None, int]:
        best, longest = None, 0
        for held in [held for held in self._held if held.tenant == tenant]:
            shared = min(_shared(held.tokens, prompt), len(prompt) - 1)
            if shared > longest or (shared == longest and shared and not held.busy):
                best, longest = held, shared
        return best, longest

    def _least_recently_used(self, keep: Held | None) -> Held:
        if len(self._held) < self._size:
            self._held.append(Held(self._step.new_cache()))
            return self._held[-1]
        free = [held for held in self._held if not held.busy]
        return min([held for held in free if held is not keep] or free, key=lambda held: held.used)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    n = min(len(a), len(b))
    if n == 0 or a[0] != b[0]:
        return 0
    different = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(different[0]) if len(different) else n
