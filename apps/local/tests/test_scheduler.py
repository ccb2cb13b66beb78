"""The scheduler over a step that breaks: everyone who waits is told, and everyone who comes later."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from apps.core.errors import AppError, InternalError, ModelUnavailable
from apps.core.messages import JsonObject
from apps.local.engine.batching.scheduler import BatchingEngine
from apps.local.engine.batching.step import WholeSequences
from apps.local.engine.port import Sampling
from apps.local.tokenizer import HubTokenizer

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
