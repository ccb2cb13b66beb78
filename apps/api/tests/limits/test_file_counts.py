"""Limits in a file that several processes share: exact together, and by shares where the file is gone."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from apps.api.src.limits.counts import WindowCounts
from apps.api.src.limits.file_counts import LATE_SECONDS, WAYS, FileCounts
from apps.core.storage import try_lock
from apps.tests.support.clock import Clock

BUCKETS = 4


def counts(path: Path, clock: Clock) -> FileCounts:
    return FileCounts(path, WindowCounts(), 2, steady=clock, wall=lambda: clock.now + 1000, buckets=BUCKETS)


async def test_two_count_in_one_window_which_ends(tmp_path: Path) -> None:
    clock = Clock(50.0)
    one, two = (counts(tmp_path / "counts", clock) for _ in range(2))
    assert [(await each.hit("a", 60)).used for each in (one, two, one, two)] == [1, 2, 3, 4]
    assert (await one.hit("a", 60, 0)).ends == 1110.0
    assert (await one.hit("b", 60)).used == 1
    # half of a character, as a caller's name may have it
    assert (await one.hit("\ud83d", 60)).used == 1
    two.add("a", 60, 5)
    clock.now += 59.9
    assert (await one.hit("a", 60, 0)).used == 9
    clock.now = 110.0
    assert (await two.hit("a", 60)).used == 1
    await one.aclose()
    await two.aclose()


async def test_a_hit_that_has_waited_counts_in_the_window_that_began_meanwhile(tmp_path: Path) -> None:
    ahead, behind = Clock(50.0), Clock(50.0)
    one, two = (counts(tmp_path / "counts", clock) for clock in (ahead, behind))
    behind.now -= LATE_SECONDS
    assert [(await each.hit("a", 60)).used for each in (one, two, one)] == [1, 2, 3]
    # so much earlier is the clock of a machine that has started again
    behind.now -= 1
    assert (await two.hit("a", 60)).used == 1
    await one.aclose()
    await two.aclose()


async def test_a_key_that_finds_no_place_has_its_share_and_one_whose_window_is_over_gives_its_place(
    tmp_path: Path,
) -> None:
    clock = Clock(50.0)
    own = counts(tmp_path / "counts", clock)
    number = 0
    while (await own.hit(f"{number}", 60)).share == 1:
        number += 1
    assert WAYS <= number <= WAYS * BUCKETS
    assert (await own.hit("0", 60)).used == 2 and not own.state().degraded
    assert (await own.hit(f"{number}", 60)).used == 2, "counted here alone"
    clock.now += 60
    assert (await own.hit(f"{number}", 60)).share == 1
    await own.aclose()


async def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    first, other = counts(tmp_path / "other", Clock(50.0)), FileCounts(tmp_path / "other", WindowCounts(), 2, buckets=8)
    assert [(await each.hit("a", 60)).share for each in (first, other)] == [1, 2]
    await first.aclose()
    await other.aclose()
    path = tmp_path / "counts"
    path.write_bytes(b"what somebody wrote\n" * 9)
    own = counts(path, Clock(50.0))
    assert (await own.hit("a", 60)).share == 2 and own.state().degraded
    assert path.read_bytes() == b"what somebody wrote\n" * 9
    await own.aclose()


async def test_a_lock_that_is_not_given_back_costs_half_a_second_and_the_share(tmp_path: Path) -> None:
    own = counts(tmp_path / "counts", Clock(50.0))
    assert (await own.hit("a", 60)).share == 1
    with (tmp_path / "counts").open("rb") as stuck:
        assert try_lock(stuck)
        assert (await own.hit("a", 60)).share == 2
    assert (await own.hit("a", 60)).used == 2
    await own.aclose()


def _hit(path: Path, times: int) -> None:
    import asyncio

    async def run() -> None:
        own = FileCounts(path, WindowCounts(), 2, buckets=BUCKETS)
        for _ in range(times):
            await own.hit("a", 3600)
        assert own.state().local_hits == 0
        await own.aclose()

    asyncio.run(run())


async def test_processes_count_together_to_the_last_hit(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_hit, args=(path, 300)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    own = FileCounts(path, WindowCounts(), 2, buckets=BUCKETS)
    assert (await own.hit("a", 3600, 0)).used == 900
    await own.aclose()


async def test_without_the_file_each_process_has_its_share(tmp_path: Path) -> None:
    clock = Clock(50.0)
    own = counts(tmp_path / "no such folder" / "counts", clock)
    count = await own.hit("a", 60)
    assert (count.used, count.share) == (1, 2)
    state = own.state()
    assert (state.shared, state.degraded, state.outages, state.local_hits) == (True, True, 1, 1)
    (tmp_path / "no such folder").mkdir()
    assert (await own.hit("a", 60)).share == 1 and not own.state().degraded
    await own.aclose()


async def test_windows_of_the_time_before_the_machine_started_anew_are_over(tmp_path: Path) -> None:
    """The steady clock begins again: a window of before would end in days."""
    clock = Clock(50.0)
    clock.now = 30 * 86400.0
    before = counts(tmp_path / "counts", clock)
    await before.hit("a", 60, 50)
    await before.aclose()
    clock.now = 100.0
    after = counts(tmp_path / "counts", clock)
    count = await after.hit("a", 60)
    assert (count.used, count.ends) == (1, 1160.0)
    await after.aclose()


async def test_a_months_window_keeps_its_place_among_others(tmp_path: Path) -> None:
    clock, month = Clock(50.0), 30 * 86400
    own = FileCounts(tmp_path / "counts", WindowCounts(), 2, steady=clock, wall=clock, buckets=1)
    await own.hit("a", month, 5)
    others = [(await own.hit(f"{number}", 60)).share for number in range(WAYS)]
    assert others == [1] * (WAYS - 1) + [2]
    assert (await own.hit("a", month)).used == 6
    await own.aclose()


async def test_a_file_that_was_not_filled_to_its_end_is_filled_anew(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    path.write_bytes(bytes(5000))
    own = counts(path, Clock(50.0))
    assert (await own.hit("a", 60)).share == 1 and not own.state().degraded
    await own.aclose()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of a file")
def test_a_disk_without_room_is_used_as_soon_as_it_has_some(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    script = f"""
import asyncio, resource, signal
from pathlib import Path
from apps.api.src.limits.counts import WindowCounts
from apps.api.src.limits.file_counts import FileCounts

async def run():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    own = FileCounts(Path({str(path)!r}), WindowCounts(), 2, buckets=4)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    shares = []
    for room in (100, hard):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        shares.append((await own.hit("a", 60)).share)
    print(shares)
    await own.aclose()

asyncio.run(run())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[2, 1]\n", done.stderr


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell a process's open files")
async def test_closed_it_holds_the_file_no_more(tmp_path: Path) -> None:
    def held() -> list[str]:
        links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [name for name in [*links, *Path("/proc/self/maps").read_text().split()] if name == str(path)]

    path = tmp_path / "counts"
    own = counts(path, Clock(50.0))
    await own.hit("a", 60)
    # as a file, and in the memory
    assert len(held()) == 3
    assert path.stat().st_mode & 0o777 == 0o600
    await own.aclose()
    assert held() == []
    assert (await own.hit("a", 60)).used == 2
    await own.aclose()
    path.write_bytes(b"what somebody wrote\n" * 9)
    assert (await own.hit("a", 60)).share == 2
    assert held() == []
