"""The record of a call: what each attempt, a reused answer and the parts of a run leave on it, and what it costs."""

import pytest
from pydantic import ValidationError

from apps.core.callers import ANONYMOUS
from apps.core.calls import ACCOUNT, Boundary, CacheUse, CallRecord, Price, Usage, cost, priced


def record() -> CallRecord:
    return CallRecord(ANONYMOUS, "/generate", "asked")


def test_a_new_record_knows_its_caller_and_nothing_of_an_answer() -> None:
    call = record()
    assert (call.model, call.provider, call.outcome, call.cache) == ("", "", "ok", "off")
    assert (call.streamed, call.estimated_tokens, call.estimated_cost) == (False, 0, 0.0)
    assert (call.attempts, call.tried, call.boundary, call.queued, call.duration) == (0, [], None, 0.0, 0.0)
    assert (call.cost, call.saved, call.estimated) == (None, 0.0, False)
    assert (call.prompt_tokens, call.completion_tokens, call.cached_tokens) == (None, None, 0)


def test_ids_are_in_the_order_of_their_milliseconds_and_differ_within_one() -> None:
    records = [record() for _ in range(100)]
    ids = [one.id for one in records]
    assert len(set(ids)) == 100
    assert {len(one) for one in ids} == {32}
    # an id is made just before the time when its call begins
    times = [int(one[:12], 16) for one in ids]
    assert all(at <= one.begun_at * 1000 for at, one in zip(times, records, strict=True))
    assert all(one.begun_at * 1000 < at + 1 for at, one in zip(times[1:], records, strict=False))
    # 80 bits of chance: all of the first ones are zero once in 2**16 records
    assert len({one[12:16] for one in ids}) > 90


@pytest.mark.parametrize(
    ("boundaries", "furthest"),
    [
        (["machine"], "machine"),
        (["outside", "network"], "outside"),
        (["machine", "network"], "network"),
        ([None], None),
        (["machine", None], None),
        # once one of them is not known, no other makes it known
        ([None, "outside"], None),
        (["network", None, "outside"], None),
    ],
)
def test_the_furthest_of_all_attempts_is_where_the_text_went(
    boundaries: list[Boundary | None], furthest: Boundary | None
) -> None:
    call = record()
    for at, boundary in enumerate(boundaries):
        call.attempt(f"target {at}", boundary)
    assert (call.boundary, call.attempts) == (furthest, len(boundaries))
    assert call.tried == [f"target {at}" for at in range(len(boundaries))]


def test_another_attempt_forgets_what_the_last_one_answered() -> None:
    call = record()
    call.attempt("first", "machine")
    call.model, call.usage = "first's", Usage(1, 2)
    call.attempt("second", "machine")
    assert [call.model, call.usage] == ["", None]


def test_a_call_shows_the_usage_of_its_answer() -> None:
    call = record()
    call.usage = Usage(3, 4, cached_tokens=2, cost=0.5, reasoning_tokens=1, estimated=True)
    assert (call.prompt_tokens, call.completion_tokens, call.cached_tokens) == (3, 4, 2)
    assert (call.cost, call.saved, call.estimated, call.usage.total_tokens) == (0.5, 0.0, True, 7)
    assert not Usage(3, 4).estimated
    assert (Usage(3, 4).cached_tokens, Usage(3, 4).reasoning_tokens) == (0, 0)


@pytest.mark.parametrize("how", ["hit", "semantic", "replay"])
def test_a_reused_answer_costs_nothing_and_saves_what_it_would_cost(how: CacheUse) -> None:
    made, call = record(), record()
    made.model, made.provider, made.usage = "m", "p", Usage(3, 4, cost=0.25)
    call.estimated_tokens, call.estimated_cost, call.spent = 100, 1.0, 2.0
    call.reuse(how, age=5.0, score=0.9)
    call.answered_as(made)
    assert (call.cache, call.age, call.score) == (how, 5.0, 0.9)
    assert (call.estimated_tokens, call.estimated_cost) == (0, 0.0)
    assert (call.model, call.provider, call.usage) == ("m", "p", made.usage)
    assert (call.cost, call.saved) == (0.0, 0.25)


def test_a_reused_answer_of_unknown_price_saves_nothing_that_is_known() -> None:
    call = record()
    call.reuse("hit")
    assert (call.cost, call.saved) == (0.0, 0.0)
    call.usage = Usage(3, 4)
    assert (call.cost, call.saved) == (0.0, 0.0)


def test_what_the_parts_of_a_call_have_spent_goes_before_its_usage() -> None:
    call = record()
    call.usage = Usage(3, 4, cost=0.25)
    call.spent = 0.75
    assert call.cost == 0.75
    call.spent = 0.0
    assert call.cost == 0.0


def test_no_account_pays_where_none_is_opened() -> None:
    assert ACCOUNT.get() is None


def test_a_price_is_for_a_million_tokens() -> None:
    price = Price(input=2.0, output=8.0)
    assert cost(price, 1_000_000, 0) == 2.0
    assert cost(price, 0, 500_000) == 4.0
    assert cost(price, 250_000, 250_000) == 2.5
    assert cost(Price(input=0, output=0), 5, 5) == 0.0


def test_the_cost_that_a_usage_reports_goes_before_the_prices() -> None:
    price = Price(input=1.0, output=1.0)
    assert priced(Usage(500_000, 500_000), price).cost == 1.0
    assert priced(Usage(500_000, 500_000, cost=0.0), price).cost == 0.0
    assert priced(Usage(500_000, 500_000), None).cost is None
    assert priced(Usage(1, 2, 3, reasoning_tokens=4), price).reasoning_tokens == 4


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_price_is_a_number_from_zero(value: float) -> None:
    with pytest.raises(ValidationError):
        Price(input=value, output=1)
    with pytest.raises(ValidationError):
        Price(input=1, output=value)


def test_a_price_has_no_other_fields() -> None:
    with pytest.raises(ValidationError):
        Price.model_validate({"input": 1, "output": 1, "cached": 1})
