"""The counts behind the rate limits: as the engine's contract wants them, and nothing kept that is over."""

import pytest
from limits import parse
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from apps.api.src.limits.counts import SWEEP_EVERY, URI, Count, CountingState, LocalCounts, WindowCounts


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


async def test_counts_of_one_process_are_nobodys_share() -> None:
    counts = LocalCounts(WindowCounts(steady=lambda: 0.0, wall=lambda: 50_000.0))
    await counts.start()
    assert await counts.hit("a", 60) == Count(1, 50_060.0, share=1)
    counts.add("a", 60, 5)
    assert (await counts.hit("a", 60, 0)).used == 6
    assert counts.state() == CountingState(False, False, processes=1, local_hits=0, outages=0)
    await counts.aclose()


def test_one_key_is_cleared_and_all_are_reset() -> None:
    windows = WindowCounts()
    for key in ("a", "b", "c"):
        windows.incr(key, 60, 2)
    windows.clear("a")
    windows.clear("never")
    assert [windows.get(key) for key in ("a", "b", "c")] == [0, 2, 2]
    assert windows.reset() == 2
    assert windows.get("b") == 0


def test_what_is_forgotten_by_the_way_is_forgotten_again_later() -> None:
    now = [0.0]
    windows = WindowCounts(steady=lambda: now[0])
    for _ in range(2):
        for i in range(SWEEP_EVERY - 1):
            windows.incr(str(i), 60)
        now[0] += 60
        windows.incr("last", 60)
        assert windows.reset() == 1
