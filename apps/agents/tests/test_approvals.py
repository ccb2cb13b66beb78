"""Tools that need an approval: the run pauses, is kept, and goes on once, by whoever may decide."""

import asyncio

import pytest

from apps.agents.config import Overrides
from apps.agents.progress import ApprovalRequired
from apps.agents.tests.running import CALLER, agents_of, declared, read
from apps.agents.tools import AgentTool, function_tool
from apps.core.agent_runs import MemoryRuns
from apps.core.callers import Caller
from apps.core.calls import Usage
from apps.core.errors import Conflict, NotFound
from apps.core.messages import user_message
from apps.models.scripted import ScriptedModel, calling, in_turns, saying

ASKING = in_turns(
    calling(("pay", {"amount": 5}), ("calculator", {"expression": "2 + 3"}), usage=Usage(10, 5, 0, 0.1)),
    saying("paid or not"),
)
AGENT = declared("pay", "calculator", approval=["pay"])


def paying(paid: list[int]) -> AgentTool:
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return f"paid {amount}"

    return function_tool(pay)


async def paused(paid: list[int], store: MemoryRuns, model: ScriptedModel, overrides: Overrides | None = None) -> str:
    session = agents_of(model, AGENT, paying(paid), store=store).begin("a", CALLER, user_message("pay 5"), overrides)
    events = await read(session)
    assert isinstance(events[-2], ApprovalRequired)
    assert [(call.tool, call.arguments) for call in events[-2].calls] == [("pay", {"amount": 5})]
    assert paid == []
    return session.run.id


@pytest.mark.parametrize("approved", [True, False])
async def test_a_paused_run_goes_on_in_another_process_as_was_decided(approved: bool) -> None:
    paid: list[int] = []
    store, model = MemoryRuns(), ScriptedModel(ASKING)
    run_id = await paused(paid, store, model, Overrides(temperature=0.5, stop=("END",)))
    kept = await store.get("tenant", run_id)
    assert kept is not None
    assert (kept.status, [call["tool"] for call in kept.pending]) == ("paused", ["pay"])
    other = agents_of(model, AGENT, paying(paid), store=store)
    session = await other.decide(run_id, CALLER, approved=approved, reason="too much")
    events = await read(session)
    assert paid == ([5] if approved else [])
    result = next(step for step in session.run.steps if step.get("tool") == "pay")
    assert result["result"] == ("paid 5" if approved else "This call was denied: too much")
    assert result["failed"] is not approved
    assert getattr(events[-1], "answer", "") == "paid or not"
    assert (model.requests[-1].temperature, model.requests[-1].stop) == (0.5, ("END",))
    done = await store.get("tenant", run_id)
    assert done is not None
    assert (done.status, done.pending, done.prompt_tokens) == ("done", [], 10)


async def test_of_two_who_decide_at_once_one_is_told_that_it_is_over() -> None:
    paid: list[int] = []
    store, model = MemoryRuns(), ScriptedModel(ASKING)
    run_id = await paused(paid, store, model)
    agents = agents_of(model, AGENT, paying(paid), store=store)

    async def decide() -> None:
        await read(await agents.decide(run_id, CALLER, approved=True))

    results = await asyncio.gather(decide(), decide(), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [Conflict]
    assert paid == [5]


async def test_others_can_neither_see_nor_decide_nor_cancel() -> None:
    store = MemoryRuns()
    run_id = await paused([], store, ScriptedModel(ASKING))
    agents = agents_of(ScriptedModel(ASKING), AGENT, paying([]), store=store)
    stranger = Caller("stranger")
    with pytest.raises(NotFound):
        await agents.decide(run_id, stranger, approved=True)
    with pytest.raises(NotFound):
        await agents.run(run_id, stranger)
    with pytest.raises(NotFound):
        await agents.cancel(run_id, stranger)


async def test_a_paused_run_that_is_cancelled_stays_so() -> None:
    paid: list[int] = []
    store = MemoryRuns()
    run_id = await paused(paid, store, ScriptedModel(ASKING))
    agents = agents_of(ScriptedModel(ASKING), AGENT, paying(paid), store=store)
    await agents.cancel(run_id, CALLER)
    with pytest.raises(Conflict, match="does not wait"):
        await agents.decide(run_id, CALLER, approved=True)
    assert paid == []


async def test_a_run_whose_process_is_gone_is_told_as_failed() -> None:
    store = MemoryRuns()
    run_id = await paused([], store, ScriptedModel(ASKING))
    assert await store.change("tenant", run_id, "paused", "running", ends_by=1.0)
    lost = await agents_of(ScriptedModel(ASKING), AGENT, paying([]), store=store).run(run_id, CALLER)
    assert (lost.status, lost.outcome) == ("failed", "INTERNAL_ERROR")
