"""Runs of agents in the database, on both kinds: kept whole, changed once, seen by their tenant only."""

import asyncio
import time

import pytest

from apps.core.agent_runs import AgentRun
from apps.operations.agent_runs import AgentRuns
from apps.operations.database import Database


def new_run(**changes: object) -> AgentRun:
    run = AgentRun("tenant", "key", "calc", ends_by=time.time() + 300)
    for name, value in changes.items():
        setattr(run, name, value)
    return run


async def test_a_run_is_kept_whole(database: Database) -> None:
    runs = AgentRuns(database)
    run = new_run()
    await runs.add(run)
    assert await runs.get("tenant", run.id) == run
    run.steps = [{"kind": "tool", "result": "\u2028\0\u00e9\ud83d", "arguments": {"a": [1, None]}}]
    run.pending, run.state, run.answer, run.model = [{"id": "1"}], '{"messages": []}', "done \0", "m" * 300
    run.status, run.ended_at, run.cost, run.error = "done", 2.0, 0.25, {"code": "X"}
    assert await runs.save(run)
    kept = await runs.get("tenant", run.id)
    assert kept is not None
    assert (kept.steps, kept.pending, kept.state, kept.error) == (run.steps, run.pending, run.state, run.error)
    assert (kept.answer, kept.model, kept.cost) == ("done \ufffd", "m" * 200, 0.25)


async def test_others_see_and_change_nothing(database: Database) -> None:
    runs = AgentRuns(database)
    run = new_run()
    await runs.add(run)
    assert await runs.get("other", run.id) is None
    assert not await runs.change("other", run.id, "running", "cancelled", 0.0)
    assert await runs.is_running(run.id)


async def test_of_many_who_change_at_once_one_does(database: Database) -> None:
    runs = AgentRuns(database)
    run = new_run(status="paused")
    await runs.add(run)
    changes = (runs.change("tenant", run.id, "paused", "running", 5.0) for _ in range(8))
    assert sum(await asyncio.gather(*changes)) == 1
    kept = await runs.get("tenant", run.id)
    assert kept is not None
    assert (kept.status, kept.ends_by) == ("running", 5.0)


async def test_what_was_cancelled_meanwhile_stays_cancelled_with_all_the_rest(database: Database) -> None:
    runs = AgentRuns(database)
    run = new_run()
    await runs.add(run)
    assert await runs.change("tenant", run.id, "running", "cancelled", 0.0)
    assert not await runs.is_running(run.id)
    run.status, run.steps = "done", [{"kind": "model"}]
    assert not await runs.save(run)
    kept = await runs.get("tenant", run.id)
    assert kept is not None
    assert (kept.status, kept.steps) == ("cancelled", [{"kind": "model"}])


async def test_old_runs_are_forgotten(database: Database) -> None:
    runs = AgentRuns(database)
    old, new = new_run(begun_at=1.0), new_run()
    await runs.add(old)
    await runs.add(new)
    assert await runs.forget(1000.0) == 1
    assert await runs.get("tenant", old.id) is None
    assert await runs.get("tenant", new.id) is not None


CALLS = [{"id": f"c{i}", "tool": "pay", "arguments": {"a": [1e300, -0.0, "\u2028\0\ud83d"]}} for i in range(8)]


@pytest.mark.long
async def test_of_many_who_decide_on_a_call_at_once_one_does_and_no_decision_is_lost(database: Database) -> None:
    runs = AgentRuns(database)
    run = new_run(status="paused", pending=CALLS, state="kept")
    await runs.add(run)

    async def decide(place: int, who: str) -> bool:
        while True:
            kept = await runs.get("tenant", run.id)
            assert kept is not None
            if "decision" in kept.pending[place]:
                return False
            after = [{**call, "decision": who} if i == place else call for i, call in enumerate(kept.pending)]
            if await runs.decide("tenant", run.id, kept.pending, after):
                return True

    won = await asyncio.gather(*(decide(i, who) for i in range(8) for who in "ab"))
    assert [won[i] + won[i + 1] for i in range(0, 16, 2)] == [1] * 8
    kept = await runs.get("tenant", run.id)
    assert kept is not None
    assert [call["decision"] for call in kept.pending] == ["a" if won[i] else "b" for i in range(0, 16, 2)]
    assert (kept.status, kept.state) == ("paused", "kept")


async def test_the_last_decision_makes_a_run_go_on_once(database: Database) -> None:
    runs = AgentRuns(database)
    run = new_run(status="paused", pending=CALLS)
    await runs.add(run)
    assert not await runs.decide("other", run.id, CALLS, [], 5.0)
    assert sum(await asyncio.gather(*(runs.decide("tenant", run.id, CALLS, CALLS, 5.0) for _ in range(8)))) == 1
    kept = await runs.get("tenant", run.id)
    assert kept is not None
    assert (kept.status, kept.ends_by, kept.pending) == ("running", 5.0, CALLS)
    assert not await runs.decide("tenant", run.id, CALLS, [])
