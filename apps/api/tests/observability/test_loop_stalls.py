"""A loop that is held up: how late it is, and which call the log names."""

import asyncio
import logging
import time

import pytest

from apps.api.src.observability.metrics import CALM_SECONDS, EVERY, LoopLag


async def test_a_loop_that_is_held_up_is_late() -> None:
    lag = LoopLag()
    with lag.measured():
        time.sleep(0.6)  # noqa: ASYNC251 - that is what it is to notice
        await asyncio.sleep(0.05)
        held, _ = lag.observations()
    assert held.value >= 0.5


async def test_a_loop_is_as_late_as_its_timer_and_a_calm_one_is_not_late() -> None:
    """By a clock that the test sets: each sleep is long enough for the timer, which finds itself so late."""
    now = 100.0
    lag = LoopLag(clock=lambda: now)
    seen = []
    with lag.measured():
        for late in (0.0, 0.0625, 0.5, 0.25):
            now += EVERY + late
            await asyncio.sleep(EVERY * 1.5)
            seen.append([one.value for one in lag.observations()])
    # the longest delay, and how many were stalls
    assert seen == [pytest.approx(right) for right in ([0, 0], [0.0625, 0], [0.5, 1], [0.5, 2])]


def hold_the_loop() -> None:
    until = time.monotonic() + 1
    while time.monotonic() < until:
        sum(range(1000))


async def test_a_stall_of_the_loop_at_the_start_is_counted_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    lag = LoopLag(stall=0.5)
    with lag.measured(), caplog.at_level(logging.INFO, "apps.api.src.observability.metrics"):
        with lag.starting():
            hold_the_loop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    stalls = {one.name: one.value for one in lag.observations()}["genai_event_loop_stalls_total"]
    # a busy machine may add stalls of its own
    assert stalls >= 1
    assert [one.levelno for one in caplog.records if "hold_the_loop" in one.getMessage()] == [logging.INFO]


async def test_a_stall_of_the_loop_is_counted_and_the_log_names_its_call(caplog: pytest.LogCaptureFixture) -> None:
    lag = LoopLag(stall=0.1)
    with lag.measured(), caplog.at_level(logging.WARNING, "apps.api.src.observability.metrics"):
        hold_the_loop()
        await asyncio.sleep(0.3)
    stalls = {one.name: one.value for one in lag.observations()}["genai_event_loop_stalls_total"]
    assert stalls >= 1
    assert any("hold_the_loop (apps/api/tests/observability/test_loop_stalls.py:" in line for line in caplog.messages)


async def test_a_process_that_works_without_a_request_looks_often_too() -> None:
    """By a clock that the test sets, as below: a response in the background, say, or documents that go in."""
    now, working = 100.0, True
    lag = LoopLag(clock=lambda: now)
    lag.watch(lambda: False)
    lag.watch(lambda: working)
    seen = []
    with lag.measured():
        for works, later in ((True, CALM_SECONDS), (False, 0.25), (False, CALM_SECONDS), (False, 0.25)):
            working = works
            now += EVERY + later
            await asyncio.sleep(EVERY * 1.5)
            seen.append([one.value for one in lag.observations()][1])
    # the first was no calm time, since there was work; behind the third the next ring is a second away
    assert seen == [1, 2, 3, 3]


async def test_a_process_without_requests_looks_seldom_and_the_first_one_has_it_look_often() -> None:
    """By a clock that the test sets; the real one only says when timers ring."""
    now = 100.0
    lag = LoopLag(clock=lambda: now)
    with lag.measured():
        now += CALM_SECONDS + EVERY
        await asyncio.sleep(EVERY * 1.5)
        # what the timer found; the next one rings in a second
        assert [one.value for one in lag.observations()] == [pytest.approx(CALM_SECONDS), 1]
        now += 60
        assert [one.value for one in lag.observations()] == [0, 1]
        lag.began()
        now += EVERY + 0.25
        await asyncio.sleep(EVERY * 1.5)
        assert [one.value for one in lag.observations()] == [pytest.approx(0.25), 2]
        # a long answer, and not a new request
        now += 2 * CALM_SECONDS
        await asyncio.sleep(EVERY * 1.5)
        now += EVERY + 0.5
        await asyncio.sleep(EVERY * 1.5)
        assert [one.value for one in lag.observations()][1] == 4
        lag.ended()
