"""Attempts: who is asked after whom, how often, when nobody is, and what the breaker and the budget learn of it."""

import asyncio
from collections.abc import Callable

import pytest

from apps.core.callers import ANONYMOUS
from apps.core.calls import Boundary, CallRecord
from apps.core.errors import (
    AppError,
    InvalidValue,
    ModelUnavailable,
    Overloaded,
    RateLimitExceeded,
    Timeout,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from apps.gateway.openai_api.chat_completions import LocalWire
from apps.gateway.routing.attempts import Attempts, Opened
from apps.gateway.routing.breaker import FEWEST_CALLS, Breaker, RetryBudget
from apps.gateway.routing.config import ProviderConfig, TargetConfig
from apps.gateway.routing.targets import Provider, Target
from apps.models.admission import Admission
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.waiting import Passed

Script = Callable[[Target], object]


def target(name: str, *, total: float = 5, slots: int = 4, queue: int = 0, boundary: Boundary | None = None) -> Target:
    config = ProviderConfig.model_validate({"kind": "local", "timeouts": {"total": total}})
    chat = ScriptedModel(saying("x"))
    provider = Provider(name, config, LocalWire(chat), chat, Admission(slots, queue, 5, f"The provider {name}"))
    provider.boundary = boundary
    return Target(provider, TargetConfig(provider=name, model="m"), Breaker(slow_after=1))


async def run(
    targets: list[Target],
    answers: Script,
    *,
    most: int = 3,
    deadline: float | None = None,
    budget: RetryBudget | None = None,
) -> tuple[Opened[object], CallRecord]:
    """The opener answers what ``answers`` says of a target: an error to raise, seconds to wait, or a value."""

    async def opener(asked: Target) -> object:
        answer = answers(asked)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        return answer

    record = CallRecord(ANONYMOUS, "/v1/chat/completions", "m")
    until = None if deadline is None else asyncio.get_running_loop().time() + deadline
    attempts = Attempts(most=most, backoff=0.01)
    try:
        return await attempts.open(
            targets, opener, record, budget or RetryBudget(), streamed=True, deadline=until
        ), record
    finally:
        asked.append(record.tried)


asked: list[list[str]] = []


async def failing(targets: list[Target], error: AppError, **how: object) -> tuple[AppError, list[str]]:
    """What ``run`` raises where everyone fails alike, and who was asked."""
    with pytest.raises(AppError) as raised:
        await run(targets, lambda _: error.as_kind(type(error)), **how)  # type: ignore[arg-type]
    return raised.value, asked[-1]


@pytest.mark.parametrize("error", [UpstreamUnavailable("x"), UpstreamTimeout("x")])
async def test_a_lone_target_is_asked_three_times(error: AppError) -> None:
    raised, tried = await failing([target("a")], error)
    assert type(raised) is type(error)
    assert (tried, raised.details["attempts"]) == (["a/m"] * 3, 3)


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError("x", upstream_status=401),
        UpstreamError("x", upstream_status=200),
        RateLimitExceeded("x"),
        Overloaded("x"),
        ModelUnavailable("x"),
        Timeout("x"),
    ],
)
async def test_faults_of_its_own_go_to_the_next_but_never_to_the_same_again(error: AppError) -> None:
    assert (await failing([target("a")], error))[1] == ["a/m"]
    assert (await failing([target("a"), target("b")], error))[1] == ["a/m", "b/m"]


@pytest.mark.parametrize(
    "error",
    [
        InvalidValue("x", field="temperature", details={"min": 0, "max": 2}),
        UpstreamError("x", upstream_status=400),
        UpstreamError("x", upstream_status=422),
    ],
)
async def test_a_fault_of_the_callers_is_nobody_elses(error: AppError) -> None:
    raised, tried = await failing([target("a"), target("b")], error)
    assert tried == ["a/m"]
    if isinstance(error, InvalidValue):
        assert raised.details == {"min": 0, "max": 2}


async def test_every_candidate_has_its_turn_before_anyone_has_a_second() -> None:
    targets = [target(name) for name in "ab"]
    assert (await failing(targets, UpstreamUnavailable("x")))[1] == ["a/m", "b/m", "a/m"]
    targets = [target(name) for name in "abcd"]
    assert (await failing(targets, UpstreamUnavailable("x")))[1] == ["a/m", "b/m", "c/m", "d/m"]


async def test_the_fallbacks_answer_is_the_answer() -> None:
    targets = [target("a"), target("b")]
    opened, record = await run(targets, lambda t: UpstreamUnavailable("x") if t is targets[0] else "hello")
    assert (opened.value, record.provider, record.attempts) == ("hello", "b", 2)
    assert [t.busy for t in targets] == [0, 1]
    await opened.close()
    assert [t.provider.admission.running for t in targets] == [0, 0]


async def test_without_budget_each_target_is_tried_once_and_none_again() -> None:
    budget = RetryBudget(fewest=0)
    raised, tried = await failing([target("a"), target("b")], UpstreamUnavailable("x"), budget=budget)
    assert (tried, raised.details["attempts"]) == (["a/m", "b/m"], 2)


async def test_an_outage_costs_at_most_a_fifth_more() -> None:
    budget, attempts = RetryBudget(fewest=0), 0
    for i in range(100):
        _, tried = await failing([target(f"a{i}")], UpstreamUnavailable("x"), budget=budget)
        attempts += len(tried)
    assert attempts <= 120


async def test_a_healthy_target_answers_however_often_the_first_one_fails() -> None:
    budget = RetryBudget(fewest=0)
    for i in range(60):
        dead, healthy = target(f"dead{i}"), target(f"healthy{i}")

        def answer(asked: Target, dead: Target = dead) -> object:
            return UpstreamUnavailable("x") if asked is dead else "hello"

        opened, record = await run([dead, healthy], answer, budget=budget)
        assert record.tried == [dead.name, healthy.name]
        await opened.close()


@pytest.mark.parametrize(
    ("first", "second", "furthest"),
    [
        ("machine", "machine", "machine"),
        ("outside", "machine", "outside"),
        ("machine", "network", "network"),
        ("machine", None, None),
        (None, "machine", None),
    ],
)
async def test_the_record_has_the_furthest_place_that_the_text_went_to(
    first: Boundary | None, second: Boundary | None, furthest: Boundary | None
) -> None:
    targets = [target("a", boundary=first), target("b", boundary=second)]
    opened, record = await run(targets, lambda one: UpstreamUnavailable("x") if one is targets[0] else "hello")
    assert (record.tried, record.boundary) == (["a/m", "b/m"], furthest)
    await opened.close()


async def test_an_open_breaker_is_passed_over_and_costs_nothing() -> None:
    targets, budget = [target("a"), target("b")], RetryBudget(fewest=0)
    for _ in range(FEWEST_CALLS):
        targets[0].breaker.failed()
    opened, record = await run(targets, lambda _: "hello", budget=budget)
    assert (record.tried, record.attempts) == (["b/m"], 1)
    await opened.close()


async def test_where_every_breaker_is_open_the_call_is_refused_with_a_time() -> None:
    alone = target("a")
    for _ in range(FEWEST_CALLS):
        alone.breaker.failed()
    raised, tried = await failing([alone], UpstreamUnavailable("x"))
    assert isinstance(raised, ModelUnavailable)
    assert tried == []
    assert 1 <= (raised.retry_after or 0) <= 10


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (UpstreamUnavailable("x"), True),
        (UpstreamTimeout("x"), True),
        (UpstreamError("x", upstream_status=200), True),
        (UpstreamError("x", upstream_status=400), False),
        (InvalidValue("x"), False),
        (Overloaded("x"), False),
        (RateLimitExceeded("x"), False),
    ],
)
async def test_only_a_targets_own_failures_open_its_breaker(error: AppError, opens: bool) -> None:
    alone = target("a")
    for _ in range(FEWEST_CALLS):
        await failing([alone], error, most=1)
    assert (alone.breaker.state == "open") is opens


async def test_slow_first_tokens_open_the_breaker() -> None:
    slow = target("a")
    slow.provider.config = ProviderConfig(base_url="http://127.0.0.1:1/v1")
    slow.breaker = Breaker(slow_after=0.001)
    for _ in range(FEWEST_CALLS):
        await (await run([slow], lambda _: 0.01))[0].close()
    assert slow.breaker.state == "open"


async def test_waiting_for_a_model_of_this_process_is_no_verdict_on_it() -> None:
    busy = target("a")
    busy.breaker = Breaker(slow_after=0.001)
    for _ in range(2 * FEWEST_CALLS):
        await (await run([busy], lambda _: 0.01))[0].close()
    assert busy.breaker.state == "closed"


async def test_the_upstreams_time_is_waited_for_and_no_other() -> None:
    await failing([target("a")], UpstreamUnavailable("x", retry_after=600), most=1)  # nothing comes after this wait
    waited = Passed(0.29)
    answers = iter([UpstreamUnavailable("x", retry_after=0.3), "ok"])
    opened, _ = await run([target("a")], lambda _: next(answers))
    await opened.close()
    assert waited


async def test_who_asked_for_rest_comes_last() -> None:
    resting = target("a")
    assert resting.wanted
    with pytest.raises(RateLimitExceeded):
        await run([resting], lambda _: RateLimitExceeded("x", retry_after=30))
    assert not resting.wanted


async def test_a_deadline_ends_the_call_and_is_no_verdict_on_the_target() -> None:
    alone = target("a")
    for _ in range(FEWEST_CALLS):
        with pytest.raises(Timeout):
            await run([alone], lambda _: 600.0, deadline=0.02)
    assert alone.breaker.state == "closed"
    assert (alone.busy, alone.provider.admission.running) == (0, 0)


async def test_a_targets_total_bounds_all_of_its_attempts_and_then_the_next_has_its_turn() -> None:
    targets = [target("a", total=0.1), target("b")]
    opened, record = await run(targets, lambda t: 600.0 if t is targets[0] else "hello")
    assert (opened.value, record.tried) == ("hello", ["a/m", "b/m"])
    await opened.close()
    with pytest.raises(Timeout):
        await run([target("a", total=0.1)], lambda _: 600.0)


async def test_a_deadline_that_the_queue_cannot_meet_is_refused_at_once() -> None:
    busy = target("a", slots=1, queue=5)
    await (await run([busy], lambda _: 0.3))[0].close()  # a call takes 0.3 s, it has learned
    opened, _ = await run([busy], lambda _: "hello")
    with pytest.raises(Overloaded) as refused:  # and no Timeout, when the deadline has come
        await run([busy], lambda _: "hello", deadline=0.1)
    assert refused.value.retry_after
    await opened.close()


async def test_a_full_queue_is_left_for_another_target() -> None:
    targets = [target("a", slots=1), target("b")]
    first, _ = await run(targets, lambda _: "one")
    second, record = await run(targets, lambda _: "two")
    assert record.tried == ["a/m", "b/m"]
    await first.close()
    await second.close()


async def test_a_caller_that_leaves_gives_everything_back() -> None:
    alone = target("a")
    task = asyncio.create_task(run([alone], lambda _: 10.0))
    await asyncio.sleep(0.02)
    assert alone.busy == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (alone.busy, alone.provider.admission.running, alone.breaker.state) == (0, 0, "closed")
