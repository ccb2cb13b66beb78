"""The scheduler: whoever waits is told of a step that breaks, and long prompts leave short ones their turn."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest

from apps.core.errors import AppError, InternalError, ModelUnavailable
from apps.core.messages import JsonObject
from apps.local.engine.batching.scheduler import BatchingEngine, Scheduler
from apps.local.engine.batching.step import SECONDS_BESIDE_ANSWERS, Step, WholeSequences
from apps.local.engine.kernel.native_step import BlockCache, BlockPool, PooledBlocks
from apps.local.engine.port import Sampling
from apps.local.tokenizer import HubTokenizer
from apps.tests.support.random_batchings import Call, Company, Stepped

pytestmark = pytest.mark.local


class BrokenStep(WholeSequences):
    """Fails where it is told to: when a cache is made, or when it computes."""

    max_rows = 64
    rows_independent = True

    def __init__(self, breaks_at: str) -> None:
        self._breaks_at = breaks_at

    def new_cache(self) -> Any:
        if self._breaks_at == "new_cache":
            raise MemoryError("no memory for a cache")
        return object()

    def copy_prefix(self, source: Any, target: Any, tokens: int) -> None:
        """Nothing is held."""

    def read_block(self, cache: Any, start: int, stop: int) -> bytes:
        raise NotImplementedError

    def write_block(self, cache: Any, start: int, stop: int, values: Any) -> None:
        raise NotImplementedError

    def run(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any], wanted: Sequence[int]) -> Any:
        raise MemoryError("no memory for a step")

    def describe(self) -> JsonObject:
        return {}

    def close(self) -> None:
        """Nothing to free."""


@pytest.mark.parametrize("breaks_at", ["new_cache", "run"])
async def test_when_the_thread_ends_the_engine_says_why_and_nobody_waits_for_ever(
    tokenizer: HubTokenizer, breaks_at: str
) -> None:
    engine = BatchingEngine(BrokenStep(breaks_at), tokenizer, 100, 1, 2, {})
    assert engine.failure is None

    async def ask() -> AppError:
        with pytest.raises(AppError) as raised:
            await anext(engine.generate([1, 2, 3], Sampling(0, 1, 5)))
        return raised.value

    try:
        async with asyncio.timeout(90):
            first = [await error for error in [asyncio.create_task(ask()) for _ in range(3)]]
            later = await ask()
        assert isinstance(first[0], InternalError)
        assert "ended with MemoryError" in str(engine.failure)
        assert isinstance(later, ModelUnavailable) and "ended with MemoryError" in later.message
        assert "shutting down" not in later.message
    finally:
        engine.close()


# --- fairness

LONG = 1500
POSITIONS = 64
GAP = 0.15


class PacedStep(PooledBlocks):
    """Takes as long on its own clock as so many rows take, and more for late positions; blocks come from a pool.

    At position 1,500 attention adds less than a third to a row of models of these shapes.
    """

    max_rows = 256
    rows_independent = True

    def __init__(self, seconds_a_row: float, blocks: int) -> None:
        self.now = 0.0
        # of each step: its end, and the rows of each of its sequences
        self.steps: list[tuple[float, dict[int, int]]] = []
        self._seconds_a_row = seconds_a_row
        self._pool = BlockPool(blocks, POSITIONS, 8)

    def new_cache(self) -> BlockCache:
        return BlockCache(2048 // POSITIONS)

    def run(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any], wanted: Sequence[int]) -> Any:
        self.now += sum(self._seconds_a_row * (1 + 0.3 * position / LONG) for position in positions)
        counts: dict[int, int] = {}
        for cache in caches:
            counts[id(cache)] = counts.get(id(cache), 0) + 1
        self.steps.append((self.now, counts))
        return np.eye(96, dtype=np.float32)[np.zeros(len(wanted), np.int64)]

    def close(self) -> None:
        """Nothing to free."""


# tokens a second of prompts: the packaged model's on two cores, and TinyLlama's on AVX2 and on AVX-512
@pytest.mark.parametrize("speed", [700, 180, 300])
def test_the_longest_gap_beside_a_prompt_of_1500_tokens_stays_short(speed: int) -> None:
    step = PacedStep(1 / speed, blocks=40)
    scheduler = Scheduler(cast(Step, stepped := Stepped(cast(Step, step))), 4, 6, clock=lambda: step.now)
    # the engine has computed prompts before
    earlier = [Call(tuple(range(at, at + 60)), Sampling(0.0, 1.0, 2), 0, None) for at in range(3)]
    try:
        company = Company(scheduler, stepped, None)
        company.answers(earlier, keep=False)
        begun = len(step.steps)
        short = [Call((at, 1, 2, 3), Sampling(0.0, 1.0, 200, tenant=str(at)), 0, None) for at in range(3)]
        long = Call(tuple(at % 96 for at in range(LONG)), Sampling(0.0, 1.0, 1, tenant="long"), 8, None)
        found = company.answers([*short, long], keep=False)
    finally:
        scheduler.close()
    assert all(outbox.reason == "length" for outbox in found) and not scheduler.interrupted
    beside = [each for each in step.steps[begun:] if max(each[1].values()) > 1 and len(each[1]) == 4]
    # every one of the others has its row in each step that computes a part of the prompt
    assert all(sorted(counts.values())[:3] == [1, 1, 1] for _, counts in beside)
    assert sum(max(counts.values()) for _, counts in beside) == LONG
    assert max(later - sooner for (sooner, _), (later, _) in pairwise(beside)) <= GAP
    # nor are they smaller than they need to be
    assert len(beside) < 2.5 * (1.15 * LONG / speed) / SECONDS_BESIDE_ANSWERS + 4
