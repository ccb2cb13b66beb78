"""Each waiting call is decided by its id: some approved, others denied, by whoever comes first, over restarts."""

import asyncio
from typing import Any

import pytest

from apps.agents.agents import Agents
from apps.agents.progress import ApprovalRequired, Event, Verdict, by_call
from apps.agents.session import RunSession
from apps.agents.tests.running import CALLER, agents_of, declared, read
from apps.agents.tools import function_tool
from apps.core.agent_runs import AgentRun, MemoryRuns
from apps.core.errors import AppError, Conflict, InvalidValue, NotFound
from apps.core.messages import user_message
from apps.models.scripted import ScriptedModel, calling, in_turns, saying

AMOUNTS = (1, 2, 3)
IDS = ("call_0_0", "call_0_1", "call_0_2")
PAYING = calling(*(("pay", {"amount": amount}) for amount in AMOUNTS))
YES, NO = Verdict(True), Verdict(False, "too much")


class Till:
    """The processes that share one store, each with agents of its own; and what was paid."""

    def __init__(self, *turns: Any) -> None:
        self.paid: list[int] = []
        self.store = MemoryRuns()
        self.model = ScriptedModel(in_turns(*turns, saying("done")))

    def process(self) -> Agents:
        async def pay(amount: int) -> str:
            """Pay."""
            self.paid.append(amount)
            return f"paid {amount}"

        return agents_of(self.model, declared("pay", approval=["pay"]), function_tool(pay), store=self.store)

    async def paused(self) -> str:
        session = self.process().begin("a", CALLER, user_message("pay"))
        events = await read(session)
        assert isinstance(events[-2], ApprovalRequired)
        return session.run.id

    async def decide(self, run_id: str, **verdicts: Verdict) -> AgentRun | list[Event]:
        """In a process that knows of the run by the store alone."""
        decided = await self.process().decide_on(run_id, CALLER, verdicts)
        return await read(decided) if isinstance(decided, RunSession) else decided

    async def kept(self, run_id: str) -> AgentRun:
        run = await self.store.get("tenant", run_id)
        assert run is not None
        return run


async def test_the_run_goes_on_with_the_last_decision_and_each_call_is_as_was_decided() -> None:
    till = Till(PAYING)
    run_id = await till.paused()
    for number, verdict in ((0, YES), (1, NO)):
        run = await till.decide(run_id, **{IDS[number]: verdict})
        assert isinstance(run, AgentRun)
        assert (run.status, till.paid, len(till.model.requests)) == ("paused", [], 1)
    assert [call["decision"] for call in (await till.kept(run_id)).pending if "decision" in call] == [
        {"approved": True, "reason": "", "key_id": "key"},
        {"approved": False, "reason": "too much", "key_id": "key"},
    ]
    await till.decide(run_id, call_0_2=YES)
    assert till.paid == [1, 3]
    done = await till.kept(run_id)
    assert (done.status, done.pending, done.answer) == ("done", [], "done")
    told = {step["id"]: step["result"] for step in done.steps if step["kind"] == "tool"}
    assert told == dict(zip(IDS, ("paid 1", "This call was denied: too much", "paid 3"), strict=True))
    decisions = [(s["call"], s["approved"], s["key_id"]) for s in done.steps if s["kind"] == "decision"]
    assert decisions == [("call_0_0", True, "key"), ("call_0_1", False, "key"), ("call_0_2", True, "key")]
    assert [m.content for m in till.model.requests[-1].messages if m.role == "tool"] == [told[id] for id in IDS]


async def test_what_is_decided_for_all_counts_for_the_calls_that_are_left() -> None:
    till = Till(PAYING)
    run_id = await till.paused()
    await till.decide(run_id, call_0_1=NO)
    await read(await till.process().decide(run_id, CALLER, approved=True))
    assert till.paid == [1, 3]


@pytest.mark.parametrize(
    ("verdicts", "error", "field"),
    [
        ({"call_0_1": YES, "nobody": YES}, NotFound, "decisions.1.id"),
        ({"call_0_1": YES, "call_0_0": NO}, Conflict, "decisions.1.id"),
        ({"call_0_0": YES, "call_0_1": YES, "call_0_2": YES}, Conflict, "decisions.0.id"),
    ],
)
async def test_a_wrong_decision_is_an_error_and_none_of_its_fellows_counts(
    verdicts: dict[str, Verdict], error: type[AppError], field: str
) -> None:
    till = Till(PAYING)
    run_id = await till.paused()
    await till.decide(run_id, call_0_0=YES)
    before = await till.kept(run_id)
    with pytest.raises(error) as raised:
        await till.decide(run_id, **verdicts)
    assert raised.value.field == field
    assert await till.kept(run_id) == before
    assert till.paid == []


def test_nothing_decided_and_a_call_decided_twice_are_wrong_values() -> None:
    with pytest.raises(InvalidValue, match="At least one"):
        by_call([])
    with pytest.raises(InvalidValue, match="twice") as raised:
        by_call([("a", YES), ("b", YES), ("a", NO)])
    assert raised.value.field == "decisions.2.id"


async def test_a_call_that_has_its_result_is_decided_already() -> None:
    till = Till(PAYING)
    run_id = await till.paused()
    await read(await till.process().decide(run_id, CALLER, approved=True))
    with pytest.raises(Conflict, match="does not wait"):
        await till.decide(run_id, call_0_0=YES)


async def test_of_many_who_decide_at_once_one_wins_a_call_and_the_run_goes_on_once() -> None:
    till = Till(PAYING)
    run_id = await till.paused()
    rivals = [till.decide(run_id, **{id: verdict}) for verdict in (YES, NO) * 5 for id in IDS]
    results = await asyncio.gather(*rivals, return_exceptions=True)
    assert [type(result) for result in results if not isinstance(result, AgentRun | list)] == [Conflict] * 27
    assert sum(isinstance(result, list) for result in results) == 1
    done = await till.kept(run_id)
    assert (done.status, sum(step["kind"] == "decision" for step in done.steps)) == ("done", 3)
    approved = [step["call"] for step in done.steps if step["kind"] == "decision" and step["approved"]]
    assert sorted(till.paid) == [IDS.index(id) + 1 for id in sorted(approved)]


async def test_whoever_would_go_on_is_told_that_another_did() -> None:
    till = Till(PAYING)
    run_id = await till.paused()
    late = await till.process().decide(run_id, CALLER, approved=True)
    part = await till.process().decide_on(run_id, CALLER, dict.fromkeys(IDS, NO))
    assert isinstance(part, RunSession)
    await read(part)
    with pytest.raises(Conflict, match="does not wait"):
        await read(late)
    done = await till.kept(run_id)
    assert (done.status, done.answer, till.paid) == ("done", "done", [])


async def test_for_all_gives_way_where_somebody_decides_on_one_just_before() -> None:
    till = Till(PAYING)
    run_id = await till.paused()
    session = await till.process().decide(run_id, CALLER, approved=True)
    await till.decide(run_id, call_0_1=NO)
    await read(session)
    assert till.paid == [1, 3]


async def test_nothing_is_decided_where_the_run_is_not_gone_on_with() -> None:
    till = Till(PAYING)
    run_id = await till.paused()
    await till.decide(run_id, call_0_0=NO)
    before = await till.kept(run_id)
    await till.process().decide(run_id, CALLER, approved=True)  # refused before its events were read: by a budget, say
    assert await till.kept(run_id) == before
    await till.decide(run_id, call_0_1=YES, call_0_2=NO)
    assert till.paid == [2]


async def test_a_decision_for_all_is_none_on_calls_of_a_later_pause() -> None:
    till = Till(calling(("pay", {"amount": 1})), calling(("pay", {"amount": 500})))
    run_id = await till.paused()
    late = await till.process().decide(run_id, CALLER, approved=True)
    await till.decide(run_id, call_0_0=YES)
    assert [call["arguments"] for call in (await till.kept(run_id)).pending] == [{"amount": 500}]
    with pytest.raises(Conflict, match="decided already"):
        await read(late)
    assert till.paid == [1]


async def test_an_id_that_a_model_gives_twice_means_the_first_call_only() -> None:
    def asking(amount: int) -> Any:
        def script(request: Any) -> Any:
            from apps.core.deltas import Delta, ToolCallDelta

            call = ToolCallDelta(0, "same", "pay", f'{{"amount": {amount}}}')
            return [Delta(tool_calls=(call,)), Delta(finish_reason="tool_calls")]

        return script

    till = Till(asking(1), asking(500))
    run_id = await till.paused()
    await till.decide(run_id, same=YES)
    (second,) = (await till.kept(run_id)).pending
    assert second["id"] != "same"
    with pytest.raises(Conflict, match="decided already"):
        await till.decide(run_id, same=YES)
    await till.decide(run_id, **{second["id"]: NO})
    assert till.paid == [1]


async def test_a_client_may_decide_as_soon_as_it_is_told_that_the_run_waits() -> None:
    till = Till(PAYING)
    session = till.process().begin("a", CALLER, user_message("pay"))
    async for event in session.events():
        if isinstance(event, ApprovalRequired):
            run = await till.decide(session.run.id, call_0_0=YES)
            assert isinstance(run, AgentRun)
    assert (await till.kept(session.run.id)).pending[0]["decision"]["approved"]


async def test_a_reader_that_leaves_while_the_run_is_claimed_leaves_none_running() -> None:
    class Slow(MemoryRuns):
        async def decide(self, *given: Any, **named: Any) -> bool:
            decided = await super().decide(*given, **named)
            await asyncio.sleep(0.05)
            return decided

    till = Till(PAYING)
    till.store = Slow()
    run_id = await till.paused()
    reading = asyncio.create_task(read(await till.process().decide(run_id, CALLER, approved=True)))
    await asyncio.sleep(0.02)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    kept = await till.kept(run_id)
    assert (kept.status, kept.outcome, till.paid) == ("failed", "CLIENT_GONE", [])
