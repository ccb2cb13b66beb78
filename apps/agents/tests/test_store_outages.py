"""A store of runs that takes nothing for a while, as a full disk does: errors of the tree, and recovery by itself."""

import asyncio
from dataclasses import dataclass, field

import pytest

from apps.agents.progress import ApprovalRequired
from apps.agents.tests.running import CALLER, agents_of, declared, read
from apps.agents.tools import AgentTool, function_tool
from apps.core.agent_runs import AgentRun, MemoryRuns, RetriedRuns
from apps.core.errors import Conflict, StoreUnavailable
from apps.core.messages import user_message
from apps.models.scripted import ScriptedModel, calling, in_turns, saying

ASKING = in_turns(calling(("pay", {"amount": 5})), saying("paid or not"))


@dataclass
class FullRuns(MemoryRuns):
    """Implements RunStore: reads as ever, and takes nothing while ``full``."""

    full: bool = False
    refused: int = 0
    saved: asyncio.Event = field(default_factory=asyncio.Event)
    refused_again: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        super().__init__()

    async def add(self, run: AgentRun) -> None:
        self._check()
        await super().add(run)

    async def save(self, run: AgentRun) -> bool:
        self._check()
        self.saved.set()
        return await super().save(run)

    async def decide(self, *values: object, **more: object) -> bool:
        self._check()
        return await super().decide(*values, **more)  # type: ignore[arg-type]

    async def change(self, *values: object, **more: object) -> bool:
        self._check()
        return await super().change(*values, **more)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.full:
            self.refused += 1
            if self.refused >= 3:
                self.refused_again.set()
            raise StoreUnavailable


def paying(paid: list[int]) -> AgentTool:
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return f"paid {amount}"

    return function_tool(pay)


async def test_a_run_that_cannot_be_kept_does_not_begin() -> None:
    store, model = FullRuns(full=True), ScriptedModel(saying("hello"))
    agents = agents_of(model, declared(), store=store)
    session = agents.begin("a", CALLER, user_message("hi"))
    with pytest.raises(StoreUnavailable):
        await read(session)
    assert model.requests == []
    store.full = False
    assert await store.get(CALLER.tenant, session.run.id) is None
    again = agents.begin("a", CALLER, user_message("hi"))
    await read(again)
    assert (await agents.run(again.run.id, CALLER)).status == "done"
    await agents.aclose()


async def test_an_answer_whose_end_cannot_be_kept_is_given_and_written_down_when_there_is_room() -> None:
    store = FullRuns()
    runs = RetriedRuns(store, seconds=0.001)
    run = AgentRun(CALLER.tenant, CALLER.key_id, "a", 0.0)
    await runs.add(run)
    store.full = True
    run.status, run.answer, run.ended_at = "done", "hello", 1.0
    with pytest.raises(StoreUnavailable):
        await runs.save(run)
    kept = await store.get(run.tenant, run.id)
    assert kept is not None
    assert (kept.status, kept.answer) == ("running", "")
    # to its callers it has ended
    assert await runs.get(run.tenant, run.id) == run
    assert await runs.get("other", run.id) is None
    assert [one.status for one in await runs.recent(run.tenant, 10)] == ["done"]
    assert not await runs.is_running(run.id)
    assert not await runs.change(run.tenant, run.id, "running", "cancelled", 0.0)
    async with asyncio.timeout(60):
        await store.refused_again.wait()
        store.full = False
        await store.saved.wait()
    assert await store.get(run.tenant, run.id) == run
    assert len(runs) == 0
    await runs.aclose()


async def test_an_agent_answers_while_the_store_is_full_and_its_end_is_written_at_the_last() -> None:
    store = FullRuns()

    class Filling(ScriptedModel):
        def revision(self, request: object) -> str:
            return "filling"

    def fills(request: object) -> list[object]:
        store.full = True
        return list(saying("hello")(request))  # type: ignore[arg-type]

    agents = agents_of(Filling(fills), declared(), store=store)  # type: ignore[arg-type]
    session = agents.begin("a", CALLER, user_message("hi"))
    await read(session)
    assert session.run.answer == "hello"
    assert (await agents.run(session.run.id, CALLER)).status == "done"
    with pytest.raises(Conflict):
        await agents.cancel(session.run.id, CALLER)
    store.full = False
    await agents.aclose()
    kept = await store.get(CALLER.tenant, session.run.id)
    assert kept is not None
    assert (kept.status, kept.answer) == ("done", "hello")


async def test_a_run_that_waits_and_cannot_be_kept_fails_and_is_never_half_paused() -> None:
    paid: list[int] = []
    store = FullRuns()

    def fills(request: object) -> list[object]:
        store.full = True
        return list(ASKING(request))  # type: ignore[arg-type]

    model = ScriptedModel(fills)  # type: ignore[arg-type]
    agents = agents_of(model, declared("pay", approval=["pay"]), paying(paid), store=store)
    session = agents.begin("a", CALLER, user_message("pay 5"))
    with pytest.raises(StoreUnavailable):
        await read(session)
    store.full = False
    await agents.aclose()
    kept = await store.get(CALLER.tenant, session.run.id)
    assert kept is not None
    assert (kept.status, kept.outcome, kept.pending, kept.state) == ("failed", "OVERLOADED", [], "")
    assert paid == []


async def test_a_decision_that_cannot_be_kept_is_none_and_can_be_made_again() -> None:
    paid: list[int] = []
    store, model = FullRuns(), ScriptedModel(ASKING)
    agents = agents_of(model, declared("pay", approval=["pay"]), paying(paid), store=store)
    session = agents.begin("a", CALLER, user_message("pay 5"))
    assert isinstance((await read(session))[-2], ApprovalRequired)
    store.full = True
    with pytest.raises(StoreUnavailable):
        await read(await agents.decide(session.run.id, CALLER, approved=True))
    assert (await agents.run(session.run.id, CALLER)).status == "paused"
    assert paid == []
    store.full = False
    await read(await agents.decide(session.run.id, CALLER, approved=True))
    assert paid == [5]
    assert (await agents.run(session.run.id, CALLER)).status == "done"
    await agents.aclose()


async def test_what_waits_to_be_written_is_bounded_and_what_is_given_up_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FullRuns()
    runs = RetriedRuns(store, most=2, seconds=60)
    for number in range(3):
        run = AgentRun("t", None, "a", 0.0, id=str(number))
        await runs.add(run)
    store.full = True
    for number in range(3):
        run = AgentRun("t", None, "a", 0.0, id=str(number), status="done", ended_at=1.0)
        with pytest.raises(StoreUnavailable):
            await runs.save(run)
    assert len(runs) == 2
    assert "The end of the run 0 is lost" in caplog.text
    await runs.aclose()
    assert "The ends of 2 runs of agents are lost" in caplog.text
