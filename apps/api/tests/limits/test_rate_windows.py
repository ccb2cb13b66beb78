"""The counts behind the rate limits: as the engine's contract wants them, and nothing kept that is over."""

import pytest
from limits import parse
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from apps.api.src.limits.counts import SWEEP_EVERY, URI, WindowCounts


def test_the_engine_finds_it_by_its_uri() -> None:
    assert isinstance(storage_from_string(URI), WindowCounts)


def test_it_counts_as_the_engine_expects() -> None:
    engine, item = FixedWindowRateLimiter(WindowCounts(steady=lambda: 0.0, wall=lambda: 50_000.0)), parse("3/minute")
    assert [engine.hit(item, "a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert engine.hit(item, "b")
    assert engine.get_window_stats(item, "b").remaining == 2
    assert engine.get_window_stats(item, "b").reset_time == 50_060
    engine.clear(item, "a")
    assert engine.test(item, "a")


def test_a_window_that_is_over_begins_anew() -> None:
    now = [100.0]
    windows = WindowCounts(steady=lambda: now[0])
    assert [windows.incr("k", 1) for _ in range(3)] == [1, 2, 3]
    now[0] += 0.999
    assert windows.get("k") == 3
    now[0] += 0.001
    assert windows.get("k") == 0
    assert windows.hit("k", 1)[0] == 1


def test_what_is_over_is_forgotten_by_the_way() -> None:
    windows = WindowCounts()
    for i in range(SWEEP_EVERY - 1):
        windows.incr(str(i), 0)
    windows.incr("last", 60)
    assert windows.reset() == 1


@pytest.mark.parametrize("key", ["never", ""])
def test_an_unknown_key_has_no_count(key: str) -> None:
    windows = WindowCounts(steady=lambda: 0.0, wall=lambda: 50_000.0)
    assert (windows.get(key), windows.check()) == (0, True)
    assert windows.get_expiry(key) == 50_000.0


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_neither_opens_nor_keeps_a_window(jump: float) -> None:
    steady, wall = [100.0], [50_000.0]
    windows = WindowCounts(steady=lambda: steady[0], wall=lambda: wall[0])
    assert windows.hit("k", 60) == (1, 50_060.0)
    wall[0] += jump
    assert windows.hit("k", 60) == (2, 50_060.0 + jump)
    assert (windows.get("k"), windows.get_expiry("k")) == (2, 50_060.0 + jump)
    steady[0] += 60
    wall[0] += 60
    assert windows.get("k") == 0
    assert windows.hit("k", 60)[0] == 1
