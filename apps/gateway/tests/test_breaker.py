"""The breaker: when it opens, how it finds out that a target is well again, and what does not count."""

import pytest

from apps.gateway.routing.breaker import FEWEST_CALLS, OPEN_SECONDS, WINDOW_SECONDS, Breaker
from apps.tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(slow_after=1.0, clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        assert breaker.acquire()
        breaker.failed()


def succeed(breaker: Breaker, times: int, first_token: float = 0.1) -> None:
    for _ in range(times):
        assert breaker.acquire()
        breaker.succeeded(first_token)


def opened(breaker: Breaker) -> Breaker:
    fail(breaker, FEWEST_CALLS)
    return breaker


def test_too_few_calls_prove_nothing(breaker: Breaker) -> None:
    fail(breaker, FEWEST_CALLS - 1)
    assert breaker.state == "closed"


def test_half_of_the_calls_failing_opens_it(breaker: Breaker) -> None:
    succeed(breaker, 5)
    fail(breaker, 4)
    assert breaker.allows()
    fail(breaker, 1)
    assert breaker.state == "open"
    assert not breaker.allows()
    assert not breaker.acquire()


def test_fewer_than_half_leaves_it_closed(breaker: Breaker) -> None:
    for _ in range(50):
        succeed(breaker, 3)
        fail(breaker, 2)
    assert breaker.state == "closed"


def test_slow_first_tokens_open_it(breaker: Breaker) -> None:
    succeed(breaker, FEWEST_CALLS, first_token=1.1)
    assert breaker.state == "open"


def test_first_tokens_in_time_do_not(breaker: Breaker) -> None:
    succeed(breaker, 10 * FEWEST_CALLS, first_token=1.0)
    assert breaker.state == "closed"


def test_what_is_long_ago_does_not_count(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, FEWEST_CALLS - 1)
    clock.now += WINDOW_SECONDS + 0.1
    fail(breaker, FEWEST_CALLS - 1)
    assert breaker.state == "closed"


def test_it_tells_when_it_may_be_asked_again(breaker: Breaker, clock: Clock) -> None:
    assert breaker.reopens_in() == 0
    opened(breaker)
    clock.now += 3
    assert breaker.reopens_in() == OPEN_SECONDS - 3


def test_one_probe_at_a_time_goes_out_after_a_while(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += OPEN_SECONDS
    assert breaker.state == "half_open"
    assert breaker.allows()
    assert breaker.acquire()
    assert not breaker.allows()
    assert not breaker.acquire()


def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += OPEN_SECONDS
    succeed(breaker, 1)
    assert breaker.state == "closed"
    fail(breaker, FEWEST_CALLS - 1)
    assert breaker.state == "closed"


@pytest.mark.parametrize("how", ["failed", "slow"])
def test_a_probe_that_does_not_opens_it_anew(how: str, breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += OPEN_SECONDS
    fail(breaker, 1) if how == "failed" else succeed(breaker, 1, first_token=5)
    assert breaker.state == "open"
    assert not breaker.acquire()
    clock.now += OPEN_SECONDS
    assert breaker.acquire()


def test_an_abandoned_probe_leaves_its_place_to_the_next(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += OPEN_SECONDS
    assert breaker.acquire()
    breaker.abandoned()
    assert breaker.state == "half_open"
    assert breaker.acquire()


def test_an_abandoned_call_is_no_verdict(breaker: Breaker) -> None:
    for _ in range(10 * FEWEST_CALLS):
        assert breaker.acquire()
        breaker.abandoned()
    assert breaker.state == "closed"


def test_answers_that_break_off_open_it(breaker: Breaker) -> None:
    for _ in range(FEWEST_CALLS // 2):
        succeed(breaker, 1)
        breaker.broke_off()
    assert breaker.state == "open"


@pytest.mark.parametrize("late", ["succeeded", "failed", "broke_off"])
def test_a_call_from_before_it_opened_does_not_decide_for_the_probe(late: str, breaker: Breaker, clock: Clock) -> None:
    assert breaker.acquire()
    opened(breaker)
    breaker.broke_off() if late == "broke_off" else breaker.failed() if late == "failed" else breaker.succeeded(0.1)
    assert breaker.state == "open"
    clock.now += OPEN_SECONDS
    assert breaker.acquire()


def test_its_changes_are_kept_with_their_times(clock: Clock) -> None:
    breaker = opened(Breaker(slow_after=1.0, clock=clock, wall=clock))
    for probe in (breaker.failed, lambda: breaker.succeeded(0.1)):
        clock.now += OPEN_SECONDS
        assert breaker.acquire()
        probe()
    assert list(breaker.changes) == [(0, "open"), (OPEN_SECONDS, "open"), (2 * OPEN_SECONDS, "closed")]
