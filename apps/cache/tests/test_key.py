"""Cache keys: nothing that an answer depends on may be left out of their digests, the tenant least of all."""

import random
from dataclasses import replace
from typing import Any

import pytest

from apps.cache.entry import CacheKey, Entry, cache_key
from apps.cache.response_cache import ResponseCache
from apps.cache.store import MemoryStore
from apps.core.callers import Budget, Caller
from apps.core.messages import DEFAULT_CACHE_CONTROL, CacheControl

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
A = Caller("a", "key-1")


def ask(caller: Caller = A, asked: dict[str, Any] = ASKED, **changes: Any) -> CacheKey:
    given: dict[str, Any] = {
        "route": "/v1/chat/completions",
        "revision": "r",
        "control": DEFAULT_CACHE_CONTROL,
        "ttl": 60.0,
    }
    made = cache_key(parameters=asked, caller=caller, **{**given, **changes})
    assert made is not None
    return made


async def test_tenants_never_share_in_ten_thousand_interleaved_lookups() -> None:
    cache, chance = ResponseCache(MemoryStore(10_000_000), 60), random.Random(3)
    # names that would run into each other if their lengths did not count
    tenants = ["a", "aa", "a:", "", "anonymous", "ANONYMOUS", "a\nb", "ä", "\ud800"]
    kept = 0
    for _ in range(10_000):
        tenant, number = chance.choice(tenants), chance.randrange(300)
        asked = {**ASKED, "messages": [{"role": "user", "content": f"{number}"}]}
        asking = ask(Caller(tenant, chance.choice(["k1", "k2"])), asked)
        found = (await cache.lookup(asking)).found
        if found is None:
            kept += 1
            mine = f"{tenant}|{number}".encode("utf-8", "surrogatepass")
            await cache.put(asking, Entry("", "", None, [mine], 10.0**12))
        else:
            assert found.entry.frames[0] == f"{tenant}|{number}".encode("utf-8", "surrogatepass")
    assert kept <= len(tenants) * 300
    assert cache.counts.hits == 10_000 - kept > 5000


@pytest.mark.parametrize(
    "other",
    [
        ask(Caller("b", "key-1")),
        ask(route="/v1/completions"),
        ask(revision="r2"),
        ask(asked={**ASKED, "seed": 1}),
        ask(asked={**ASKED, "unknown": None}),
        ask(asked={**ASKED, "model": "M"}),
        ask(asked={**ASKED, "temperature": 0.5}),
    ],
)
def test_whatever_differs_makes_another_key(other: CacheKey) -> None:
    assert other.digest != ask().digest
    assert other.flight != ask().flight


def test_api_keys_of_one_tenant_share_answers() -> None:
    assert ask(Caller("a", "key-2")) == ask()


def test_callers_with_budgets_of_their_own_share_answers_and_never_an_execution() -> None:
    budgeted = replace(A, budget=Budget(1, "day"))
    other = replace(budgeted, key_id="key-2")
    assert len({ask(c).digest for c in (A, budgeted, other)}) == 1
    assert len({ask(c).flight for c in (A, budgeted, other)}) == 3


def test_the_cache_control_bounds_the_time_and_is_not_in_the_digest() -> None:
    assert ask(control=CacheControl(ttl=5)).ttl == 5
    assert ask(control=CacheControl(ttl=5)).digest == ask().digest


def test_what_has_no_canonical_form_has_no_key() -> None:
    none = cache_key("/r", {"x": float("inf")}, "r", A, DEFAULT_CACHE_CONTROL, 1)
    assert none is None


def scope(asked: dict[str, Any], caller: Caller = A) -> bytes | None:
    similar = ask(replace(caller, semantic_cache=0.9), asked).similar
    return similar.scope if similar else None


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_only_the_wording_of_the_last_user_message_may_differ() -> None:
    base = scope({**ASKED, "messages": [user("one"), {"role": "assistant", "content": "x"}, user("two")]})
    assert base is not None
    assert scope({**ASKED, "messages": [user("one"), {"role": "assistant", "content": "x"}, user("three")]}) == base
    for other in (
        {**ASKED, "messages": [user("two"), {"role": "assistant", "content": "x"}, user("two")]},
        {**ASKED, "messages": [user("one"), {"role": "assistant", "content": "y"}, user("two")]},
        {**ASKED, "messages": [user("one"), {"role": "assistant", "content": "x"}, {**user("two"), "name": "n"}]},
        {**ASKED, "messages": [user("two")]},
        {**ASKED, "max_tokens": 5, "messages": [user("one"), {"role": "assistant", "content": "x"}, user("two")]},
    ):
        assert scope(other) != base
    assert scope(ASKED, Caller("b")) != scope(ASKED)


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "assistant", "content": "x"}], [user([{"type": "text", "text": "x"}])], [user(None)], "x"],
)
def test_what_does_not_end_in_a_users_text_is_matched_exactly_only(messages: Any) -> None:
    assert scope({**ASKED, "messages": messages}) is None


def test_a_response_to_one_text_may_be_worded_otherwise() -> None:
    assert scope({"model": "m", "input": "a"}) == scope({"model": "m", "input": "b"}) is not None


def test_a_key_that_did_not_ask_for_it_gets_exact_matches_only() -> None:
    assert ask().similar is None
