"""Tokens a minute, at the bookkeeper: what is under way counts by its estimate, what is over by its use."""

import asyncio

import pytest

from apps.api.src.limits.counts import LocalCounts, WindowCounts
from apps.api.src.limits.limiter import TokenLimits
from apps.core.callers import Caller
from apps.core.calls import CallRecord, Usage
from apps.core.errors import RateLimitExceeded

KEY = Caller("t", "k", tokens_per_minute=100)


def call(estimated: int = 10, used: int | None = None) -> CallRecord:
    usage = None if used is None else Usage(used, 0)
    return CallRecord(KEY, "/generate", "m", estimated_tokens=estimated, usage=usage)


@pytest.fixture
def limits() -> TokenLimits:
    return TokenLimits(LocalCounts(WindowCounts()))


async def test_parallel_calls_cannot_pass_by_each_other(limits: TokenLimits) -> None:
    results = await asyncio.gather(*(limits.opening(call()) for _ in range(50)), return_exceptions=True)
    assert [result is None for result in results].count(True) == 10
    assert {type(result) for result in results if result} == {RateLimitExceeded}


async def test_an_estimate_that_was_too_high_is_given_back(limits: TokenLimits) -> None:
    for _ in range(20):
        made = call(estimated=80)
        await limits.opening(made)
        made.usage = Usage(1, 0)
        limits.closing(made)
    with pytest.raises(RateLimitExceeded):
        await limits.opening(call(estimated=81))


@pytest.mark.parametrize("cache", ["hit", "semantic", "replay"])
async def test_what_a_cache_answered_used_nothing(cache: str, limits: TokenLimits) -> None:
    made = call(used=1000)
    made.cache = cache  # type: ignore[assignment]
    await limits.opening(made)
    limits.closing(made)
    await limits.opening(call(estimated=100))


async def test_what_others_write_into_the_record_meanwhile_changes_nothing(limits: TokenLimits) -> None:
    made = call(estimated=60)
    await limits.opening(made)
    made.estimated_tokens = 0
    limits.closing(made)
    await limits.opening(call(estimated=100))
