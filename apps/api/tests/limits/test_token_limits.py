"""Tokens a minute, at the bookkeeper: what is under way counts by its estimate, what is over by its use."""

import asyncio
from collections.abc import Awaitable

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


@pytest.mark.parametrize("cache", ["off", "miss"])
async def test_what_a_call_used_counts_and_a_refusal_says_what_was_expected(cache: str, limits: TokenLimits) -> None:
    made = call()
    made.cache, made.usage = cache, Usage(50, 41)  # type: ignore[assignment]
    await limits.opening(made)
    limits.closing(made)
    with pytest.raises(RateLimitExceeded) as refused:
        await limits.opening(call(estimated=10))
    assert refused.value.details == {"limit": "100 per 1 minute", "source": "key", "unit": "tokens", "estimated": 10}
    assert refused.value.headers["ratelimit-policy"] == '"key-tokens";q=100;w=60;qu="tokens"'
    await limits.opening(call(estimated=9))


async def test_a_call_without_usage_has_used_nothing(limits: TokenLimits) -> None:
    made = call(estimated=100)
    await limits.opening(made)
    limits.closing(made)
    await limits.opening(call(estimated=100))


async def test_calls_that_are_under_way_go_one_by_one(limits: TokenLimits) -> None:
    first, second = call(estimated=60), call(estimated=40)
    await limits.opening(first)
    await limits.opening(second)
    limits.closing(first)
    with pytest.raises(RateLimitExceeded):
        await limits.opening(call(estimated=61))
    await limits.opening(call(estimated=60))


async def test_each_key_has_its_own_and_callers_without_one_their_tenants(limits: TokenLimits) -> None:
    def opening(caller: Caller) -> Awaitable[None]:
        return limits.opening(CallRecord(caller, "/generate", "m", estimated_tokens=60))

    await opening(KEY)
    await opening(Caller("t", "another", tokens_per_minute=100))
    await opening(Caller("t", tokens_per_minute=100))
    await opening(Caller("u", tokens_per_minute=100))
    for caller in (KEY, Caller("t", tokens_per_minute=100)):
        with pytest.raises(RateLimitExceeded):
            await opening(caller)


async def test_a_key_without_a_limit_of_tokens_is_not_counted(limits: TokenLimits) -> None:
    for _ in range(3):
        made = CallRecord(Caller("t", "k"), "/generate", "m", estimated_tokens=1_000_000, usage=Usage(1_000_000, 0))
        await limits.opening(made)
        limits.closing(made)
    await limits.opening(call(estimated=100))
