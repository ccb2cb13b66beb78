"""The job table by itself: leases, order, turns, and what a lost lease may still do (nothing)."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.core.errors import InvalidValue, NotFound
from apps.rag.job_queue import NewFile
from apps.rag.jobs import JobTable
from apps.rag.records import Limits

LIMITS = Limits(lease_seconds=0.3)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[JobTable]:
    made = JobTable(tmp_path / "jobs.sqlite3", LIMITS)
    yield made
    made.close()


def new(name: str) -> NewFile:
    return NewFile(name, "0" * 64, {"year": 1}, 10, f"spooled {name}")


def test_a_file_has_one_worker_until_its_lease_runs_out(table: JobTable) -> None:
    table.add("ann", "docs", [new("a")])
    first = table.claim("one")
    assert first is not None and first.metadata == {"year": 1}
    assert table.claim("two") is None
    time.sleep(0.2)
    table.renew("one", [first.id])
    time.sleep(0.2)
    assert table.claim("two") is None
    time.sleep(0.2)
    second = table.claim("two")
    assert second is not None and second.id == first.id and second.attempts == 2
    assert not table.note(first, 1, 1, 1, 50)
    assert not table.holds(first)
    assert not table.finish(first, 1, 1)
    assert not table.fail(first, InvalidValue("no"))
    assert not table.give_back(first, 0)
    assert table.finish(second, 3, 4)
    assert table.claim("one") is None


def test_a_file_that_its_worker_does_not_know_of_is_free_when_its_lease_runs_out(tmp_path: Path) -> None:
    now = [10_000.0]
    table = JobTable(tmp_path / "jobs.sqlite3", LIMITS, lambda: now[0])
    table.add("ann", "docs", [new("known"), new("unknown")])
    known, unknown = table.claim("w"), table.claim("w")
    assert known is not None and unknown is not None
    for _ in range(3):
        now[0] += 0.2
        table.renew("w", [known.id])
    # the same worker may claim it again; its first claim says nothing any more
    again = table.claim("w")
    assert again is not None and again.id == unknown.id and table.claim("w") is None
    assert table.holds(known) and table.holds(again) and not table.holds(unknown)
    table.close()


def test_versions_of_one_name_are_taken_in_order(table: JobTable) -> None:
    table.add("ann", "docs", [new("a"), new("b")])
    table.add("ann", "docs", [new("a")])
    one, two = table.claim("w"), table.claim("w")
    assert one is not None and two is not None
    assert (one.name, two.name) == ("a", "b")
    assert table.claim("w") is None, "the second version waits for the first"
    table.finish(one, 0, 1)
    later = table.claim("w")
    assert later is not None and later.name == "a"


def test_tenants_take_turns(table: JobTable) -> None:
    table.add("ann", "docs", [new(f"a{n}") for n in range(4)])
    table.add("bob", "docs", [new(f"b{n}") for n in range(2)])
    taken = [claim.name for _ in range(6) if (claim := table.claim("w"))]
    assert taken == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_what_killed_its_worker_comes_last(table: JobTable) -> None:
    table.add("ann", "docs", [new("bad"), new("good")])
    bad = table.claim("w")
    assert bad is not None
    time.sleep(0.4)
    assert [claim.name for _ in range(2) if (claim := table.claim("v"))] == ["good", "bad"]


def test_percent_never_goes_back_and_a_job_is_only_its_tenants(table: JobTable) -> None:
    job = table.add("ann", "docs", [new("a"), new("b")])
    claim = table.claim("w")
    assert claim is not None
    assert table.note(claim, 3, 9, 5, 60)
    assert table.note(claim, 1, 2, 1, 10)
    state = table.job("ann", job)
    assert (state.status, state.percent, state.files[0].embedded) == ("running", 30, 5)
    with pytest.raises(NotFound):
        table.job("bob", job)


def test_a_file_that_waits_for_another_try_is_not_taken_before(table: JobTable) -> None:
    table.add("ann", "docs", [new("a")])
    claim = table.claim("w")
    assert claim is not None and table.give_back(claim, 0.2)
    assert table.claim("w") is None
    time.sleep(0.25)
    again = table.claim("w")
    assert again is not None and again.attempts == 2


def test_a_worker_that_ends_gives_all_of_its_files_back_at_once(table: JobTable) -> None:
    table.add("ann", "docs", [new("a"), new("b")])
    assert table.claim("w") and table.claim("w")
    table.release("w")
    again = table.claim("v")
    assert again is not None and again.attempts == 1


def test_finished_jobs_are_forgotten_after_a_while(tmp_path: Path) -> None:
    table = JobTable(tmp_path / "jobs.sqlite3", Limits(job_days=0))
    done = table.add("ann", "docs", [new("a")])
    claim = table.claim("w")
    assert claim is not None and table.finish(claim, 0, 1)
    waiting = table.add("ann", "docs", [new("b")])
    assert (table.forget(1), table.forget(1), table.open_spooled()) == (1, 0, {"spooled b"})
    with pytest.raises(NotFound):
        table.job("ann", done)
    assert table.job("ann", waiting).status == "queued"
    table.close()


def test_a_clock_that_is_set_back_keeps_no_file_waiting(tmp_path: Path) -> None:
    now = [10_000.0]
    table = JobTable(tmp_path / "jobs.sqlite3", Limits(lease_seconds=15), lambda: now[0])
    table.add("ann", "docs", [new("a")])
    first = table.claim("one")
    assert first is not None
    assert table.claim("two") is None
    now[0] -= 3600
    second = table.claim("two")
    assert second is not None and second.worker == "two"
    assert not table.holds(first)
    assert table.give_back(second, 60)
    assert table.claim("three") is None
    now[0] -= 3600
    assert table.claim("three") is not None
    table.close()
