"""Runs of agents in this process' memory, as every store keeps them; and ends of runs that a store could not take."""

import asyncio

import pytest

from apps.core.agent_runs import AgentRun, MemoryRuns, RetriedRuns, RunStatus, RunStore
from apps.core.errors import StoreUnavailable
from apps.tests.support.waiting import HANG_SECONDS

CALLS = [{"id": "1", "tool": "pay"}]
DECIDED = [{"id": "1", "tool": "pay", "decision": "approved"}]


def run_of(run_id: str, status: RunStatus = "running", begun_at: float = 0.0, tenant: str = "t") -> AgentRun:
    return AgentRun(tenant, "key", "calc", ends_by=9.0, id=run_id, status=status, begun_at=begun_at)


async def kept(store: RunStore, run_id: str) -> AgentRun:
    run = await store.get("t", run_id)
    assert run is not None
    return run


def test_a_new_run_is_under_way_and_has_done_nothing() -> None:
    run, other = AgentRun("t", None, "calc", 1.0), AgentRun("t", None, "calc", 1.0)
    assert 0 < run.begun_at <= other.begun_at
    assert (len(run.id), run.id == other.id) == (32, False)
    assert (run.status, run.outcome, run.ended_at) == ("running", "ok", None)
    assert (run.state, run.answer, run.model, run.steps, run.pending) == ("", "", "", [], [])
    assert (run.prompt_tokens, run.completion_tokens, run.cached_tokens, run.cost) == (0, 0, 0, None)


async def test_what_is_kept_changes_with_nothing_that_is_in_other_hands() -> None:
    runs, run = MemoryRuns(), run_of("1")
    await runs.add(run)
    run.steps.append({"kind": "model"})
    (await kept(runs, "1")).steps.append({"kind": "tool"})
    (await runs.recent("t", 1))[0].steps.append({"kind": "tool"})
    assert (await kept(runs, "1")).steps == []
    assert await runs.save(run)
    assert (await kept(runs, "1")).steps == [{"kind": "model"}]
    run.steps.append({"kind": "tool"})
    assert (await kept(runs, "1")).steps == [{"kind": "model"}]


async def test_runs_are_their_tenants_alone() -> None:
    runs = MemoryRuns()
    await runs.add(run_of("1"))
    await runs.add(run_of("2", "paused"))
    assert await runs.get("other", "1") is None
    assert await runs.recent("other", 9) == []
    assert not await runs.change("other", "1", "running", "cancelled", 0.0)
    assert not await runs.decide("other", "2", [], DECIDED)
    assert [(run.id, run.status, run.pending) for run in await runs.recent("t", 9)] == [
        ("1", "running", []),
        ("2", "paused", []),
    ]


async def test_the_newest_come_first_and_those_before_a_time_behind_them() -> None:
    runs = MemoryRuns()
    for run_id, begun_at in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        await runs.add(run_of(run_id, begun_at=begun_at))
    assert [run.id for run in await runs.recent("t", 9)] == ["c", "b", "a"]
    assert [run.id for run in await runs.recent("t", 2)] == ["c", "b"]
    assert [run.id for run in await runs.recent("t", 9, before=2.0)] == ["a"]


async def test_beyond_the_most_the_oldest_that_has_ended_is_forgotten() -> None:
    runs = MemoryRuns(most=3)
    for run_id, status in (("1", "running"), ("2", "paused"), ("3", "done")):
        await runs.add(run_of(run_id, status))  # type: ignore[arg-type]
    assert await runs.get("t", "3") is not None
    await runs.add(run_of("4", "failed"))
    assert await runs.get("t", "3") is None
    await runs.add(run_of("5"))
    # none has ended: all stay
    await runs.add(run_of("6"))
    assert [run.id for run in await runs.recent("t", 9)] == ["1", "2", "5", "6"]


@pytest.mark.parametrize("status", ["paused", "done", "failed"])
async def test_only_a_run_that_is_under_way_is_saved(status: RunStatus) -> None:
    runs = MemoryRuns()
    assert not await runs.save(run_of("1"))
    assert await runs.get("t", "1") is None
    await runs.add(run_of("1", status))
    assert not await runs.save(run_of("1", "running"))
    assert (await kept(runs, "1")).status == status


async def test_what_was_cancelled_meanwhile_stays_cancelled_with_all_the_rest() -> None:
    runs, begun = MemoryRuns(), AgentRun("t", None, "calc", 1.0).begun_at
    await runs.add(run_of("1"))
    assert await runs.change("t", "1", "running", "cancelled", 5.0)
    cancelled = await kept(runs, "1")
    assert (cancelled.status, cancelled.ends_by) == ("cancelled", 5.0)
    assert cancelled.ended_at is not None
    assert begun <= cancelled.ended_at <= AgentRun("t", None, "calc", 1.0).begun_at
    done = run_of("1", "done")
    done.answer = "hello"
    assert not await runs.save(done)
    assert ((await kept(runs, "1")).status, (await kept(runs, "1")).answer) == ("cancelled", "hello")


async def test_a_run_is_moved_from_the_status_that_it_has() -> None:
    runs = MemoryRuns()
    await runs.add(run_of("1", "paused"))
    assert not await runs.change("t", "none", "paused", "running", 5.0)
    assert not await runs.change("t", "1", "running", "done", 5.0)
    assert not await runs.is_running("1")
    assert await runs.change("t", "1", "paused", "running", 5.0)
    assert ((await kept(runs, "1")).ends_by, (await kept(runs, "1")).ended_at) == (5.0, None)
    assert await runs.is_running("1")
    assert not await runs.is_running("none")


async def test_calls_of_a_paused_run_are_decided_where_they_are_what_was_read() -> None:
    runs, paused = MemoryRuns(), run_of("1", "paused")
    paused.pending = CALLS
    await runs.add(paused)
    assert not await runs.decide("t", "none", CALLS, DECIDED)
    assert not await runs.decide("t", "1", DECIDED, CALLS)
    after = [dict(call) for call in DECIDED]
    assert await runs.decide("t", "1", CALLS, after)
    after[0]["decision"] = "changed later"
    half = await kept(runs, "1")
    assert (half.pending, half.status, half.ends_by) == (DECIDED, "paused", 9.0)
    assert await runs.decide("t", "1", DECIDED, DECIDED, 5.0)
    whole = await kept(runs, "1")
    assert (whole.pending, whole.status, whole.ends_by) == (DECIDED, "running", 5.0)
    assert not await runs.decide("t", "1", DECIDED, DECIDED, 5.0)


async def test_what_began_before_a_time_is_forgotten_whosever_it_is() -> None:
    runs = MemoryRuns()
    for run_id, begun_at, tenant in (("1", 1.0, "t"), ("2", 2.0, "other"), ("3", 3.0, "t")):
        await runs.add(run_of(run_id, begun_at=begun_at, tenant=tenant))
    assert await runs.forget(3.0) == 2
    assert [run.id for run in await runs.recent("t", 9)] == ["3"]
    assert await runs.get("other", "2") is None


class AwayRuns(MemoryRuns):
    """Implements RunStore; it takes nothing while it is ``away``."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.tries = 0
        self.tried_again = asyncio.Event()
        self.written = asyncio.Event()

    async def save(self, run: AgentRun) -> bool:
        if self.away:
            self.tries += 1
            if self.tries > 2:
                self.tried_again.set()
            raise StoreUnavailable
        self.written.set()
        return await super().save(run)


async def test_what_the_store_takes_is_the_stores() -> None:
    store = AwayRuns()
    runs = RetriedRuns(store)
    await runs.add(run_of("1", begun_at=1.0))
    await runs.add(run_of("2", "paused", begun_at=2.0))
    assert await runs.is_running("1")
    assert not await runs.is_running("none")
    assert await runs.save(run_of("1", "paused", begun_at=1.0))
    assert not await runs.save(run_of("1", begun_at=1.0))
    assert await runs.decide("t", "2", [], CALLS, 5.0)
    assert not await runs.decide("t", "2", [], CALLS, 5.0)
    assert (await kept(store, "2")).ends_by == 5.0
    assert [run.id for run in await runs.recent("t", 1, before=2.0)] == ["1"]
    assert await runs.change("t", "1", "paused", "cancelled", 0.0)
    assert not await runs.change("t", "1", "paused", "cancelled", 0.0)
    assert await runs.forget(2.0) == 1
    assert await runs.get("t", "1") is None
    assert await runs.get("t", "2") == await store.get("t", "2")
    assert len(runs) == 0
    await runs.aclose()


async def test_a_step_that_the_store_does_not_take_is_not_kept_for_later() -> None:
    store = AwayRuns()
    runs = RetriedRuns(store)
    await runs.add(run_of("1"))
    store.away = True
    with pytest.raises(StoreUnavailable):
        await runs.save(run_of("1"))
    assert len(runs) == 0
    await runs.aclose()


async def test_ends_of_runs_are_written_when_the_store_is_back_and_read_as_ended_until_then() -> None:
    store = AwayRuns()
    runs = RetriedRuns(store, seconds=0.001)
    ended = []
    for run_id in ("1", "2"):
        await runs.add(run_of(run_id))
        run = run_of(run_id, "done")
        run.ended_at, run.steps = 1.0, [{"kind": "model"}]
        ended.append(run)
    store.away = True
    for run in ended:
        with pytest.raises(StoreUnavailable):
            await runs.save(run)
    assert len(runs) == 2
    # what is read is a copy, too
    (await kept(runs, "1")).steps.clear()
    (await runs.recent("t", 1))[0].steps.clear()
    ended[0].steps.append({"kind": "later"})
    assert ((await kept(runs, "1")).status, (await kept(runs, "1")).steps) == ("done", [{"kind": "model"}])
    assert [run.status for run in await runs.recent("t", 9)] == ["done", "done"]
    assert await runs.get("other", "1") is None
    assert not await runs.is_running("1")
    assert not await runs.change("t", "1", "running", "cancelled", 0.0)
    async with asyncio.timeout(HANG_SECONDS):
        await store.tried_again.wait()
        store.away = False
        while len(runs):
            await store.written.wait()
            await asyncio.sleep(0)
    assert [(await kept(store, run_id)).status for run_id in ("1", "2")] == ["done", "done"]
    # one that ends later is retried, too
    await runs.add(run_of("3"))
    store.away, late = True, run_of("3", "failed")
    late.ended_at = 1.0
    with pytest.raises(StoreUnavailable):
        await runs.save(late)
    store.away = False
    store.written.clear()
    async with asyncio.timeout(HANG_SECONDS):
        await store.written.wait()
    assert (await kept(store, "3")).status == "failed"
    await runs.aclose()


async def test_what_is_not_written_at_the_end_is_tried_once_more_and_else_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = AwayRuns()
    runs = RetriedRuns(store, most=2, seconds=HANG_SECONDS)
    store.away = True
    for run_id in ("1", "2", "3"):
        await runs.add(run_of(run_id))
        run = run_of(run_id, "done")
        run.ended_at = 1.0
        with pytest.raises(StoreUnavailable):
            await runs.save(run)
    assert len(runs) == 2
    assert "The end of the run 1 is lost" in caplog.text
    store.away = False
    await runs.aclose()
    assert [(await kept(store, run_id)).status for run_id in ("1", "2", "3")] == ["running", "done", "done"]
    assert len(runs) == 0
    assert "are lost" not in caplog.text


async def test_a_store_that_does_not_answer_at_the_end_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    class Silent(AwayRuns):
        async def save(self, run: AgentRun) -> bool:
            if not self.away:
                await asyncio.Event().wait()
            return await super().save(run)

    store = Silent()
    runs = RetriedRuns(store, seconds=HANG_SECONDS)
    store.away, run = True, run_of("1", "done")
    run.ended_at = 1.0
    with pytest.raises(StoreUnavailable):
        await runs.save(run)
    store.away = False
    async with asyncio.timeout(HANG_SECONDS):
        await runs.aclose()
    assert "The ends of 1 runs of agents are lost" in caplog.text
