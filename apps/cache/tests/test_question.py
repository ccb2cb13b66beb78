"""Questions: nothing that an answer depends on may be left out of their digests, the tenant least of all."""

import random
from dataclasses import replace
from typing import Any

import pytest

from apps.cache.entry import Entry, Facts
from apps.cache.question import Question, question, without_last_user_text
from apps.cache.response_cache import ResponseCache
from apps.cache.store import MemoryStore
from apps.core.callers import Budget, Caller
from apps.core.messages import NO_WISHES, CacheWishes

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
A = Caller("a", "key-1")


def ask(caller: Caller = A, asked: dict[str, Any] = ASKED, **changes: Any) -> Question:
    given: dict[str, Any] = {"route": "/v1/chat/completions", "revision": "r", "wishes": NO_WISHES, "ttl": 60.0}
    made = question(asked=asked, caller=caller, split=without_last_user_text, **{**given, **changes})
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
        found = (await cache.find(asking)).found
        if found is None:
            kept += 1
            mine = f"{tenant}|{number}".encode("utf-8", "surrogatepass")
            await cache.keep(asking, Entry(Facts(), [mine], 10.0**12))
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
def test_whatever_differs_makes_another_question(other: Question) -> None:
    assert other.digest != ask().digest
    assert other.flight != ask().flight


def test_keys_of_one_tenant_ask_the_same_question() -> None:
    assert ask(Caller("a", "key-2")) == ask()


def test_callers_with_budgets_of_their_own_share_answers_and_never_an_execution() -> None:
    budgeted = replace(A, budget=Budget(1, "day"))
    other = replace(budgeted, key_id="key-2")
    assert len({ask(c).digest for c in (A, budgeted, other)}) == 1
    assert len({ask(c).flight for c in (A, budgeted, other)}) == 3


def test_a_callers_wish_bounds_the_time_and_not_the_question() -> None:
    assert ask(wishes=CacheWishes(ttl=5)).ttl == 5
    assert ask(wishes=CacheWishes(ttl=5)).digest == ask().digest


def test_what_has_no_canonical_form_is_no_question() -> None:
    none = question("/r", {"x": float("inf")}, "r", A, NO_WISHES, 1, without_last_user_text)
    assert none is None


def scope(asked: dict[str, Any], caller: Caller = A) -> bytes | None:
    alike = ask(replace(caller, semantic_cache=0.9), asked).alike
    return alike.scope if alike else None


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
    assert ask().alike is None
