"""The bounds of a run: each is kept, and each is told in words that name it. Also cancelling, and leaving."""

import asyncio
from contextlib import aclosing

import pytest

from apps.agents.config import LimitsConfig
from apps.agents.progress import LOOK_EVERY, BoundReached, ToolCalled
from apps.agents.session import RunSession
from apps.agents.tests.running import CALLER, agents_of, declared, ran, read
from apps.agents.tools import AgentTool, function_tool
from apps.core.agent_runs import AgentRun, MemoryRuns
from apps.core.callers import Caller
from apps.core.calls import Usage
from apps.core.errors import Conflict, NotFound, StoreUnavailable, Timeout
from apps.core.messages import user_message
from apps.models.metering import Meter, MeteredModel
from apps.models.scripted import Script, ScriptedModel, calling, in_turns, saying
from apps.tests.support.caching import Books
from apps.tests.support.waiting import HANG_SECONDS

ENDLESS = calling(("calculator", {"expression": "1 + 1"}), usage=Usage(100, 20, 0, 0.1))


async def stopped(script: Script, **limits: float) -> tuple[RunSession, BoundReached]:
    agent = declared("calculator", limits=LimitsConfig.model_validate(limits))
    session = agents_of(ScriptedModel(script), agent).begin("a", CALLER, user_message("hi"))
    with pytest.raises(BoundReached) as raised:
        await read(session)
    return session, raised.value


async def test_an_endless_loop_ends_at_its_bound_of_steps() -> None:
    session, error = await stopped(ENDLESS)
    assert (error.details["limit"], error.details["max"]) == ("steps", 10)
    assert sum(step["kind"] == "model" for step in session.run.steps) == 10
    assert session.run.status == "failed"


async def test_tokens_and_cost_are_bounds_too() -> None:
    session, error = await stopped(ENDLESS, tokens=300)
    assert (error.details["limit"], session.run.prompt_tokens) == ("tokens", 300)
    session, error = await stopped(ENDLESS, cost=0.15)
    assert (error.details["limit"], round(session.run.cost or 0, 6)) == ("cost", 0.2)


def waiting_tool(seen: list[str]) -> AgentTool:
    async def wait() -> str:
        """Wait for ever."""
        seen.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")
        return "never"

    return function_tool(wait)


async def begun(seen: list[str]) -> None:
    for _ in range(500):
        if "began" in seen:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the tool was not called")


async def test_a_tool_that_hangs_is_ended_and_the_model_is_told() -> None:
    seen: list[str] = []
    agent = declared("wait", limits=LimitsConfig(tool_seconds=0.1))
    done = await ran(in_turns(calling(("wait", {})), saying("ok")), agent, waiting_tool(seen))
    assert done.results[0].result == "Error: The tool did not answer within 0.1 seconds"
    assert seen == ["began", "ended"]
    assert done.end.answer == "ok"


async def test_a_run_that_takes_too_long_is_a_timeout() -> None:
    seen: list[str] = []
    agent = declared("wait", limits=LimitsConfig(seconds=0.2))
    agents = agents_of(ScriptedModel(calling(("wait", {}))), agent, waiting_tool(seen))
    session = agents.begin("a", CALLER, user_message("hi"))
    with pytest.raises(Timeout, match=r"0\.2 seconds"):
        await read(session)
    assert seen == ["began", "ended"]
    assert session.run.outcome == "TIMEOUT"
    assert session.run.steps[-1]["result"] == "The run ended before this call did"


async def test_a_long_result_is_cut_and_the_model_knows() -> None:
    async def novel() -> str:
        """Write a novel."""
        return "x" * 5000

    agent = declared("novel", limits=LimitsConfig(result_characters=100))
    done = await ran(in_turns(calling(("novel", {})), saying("ok")), agent, function_tool(novel))
    assert done.results[0].result == "x" * 100 + "\n[cut: these are the first 100 of 5000 characters]"
    assert done.model.requests[1].messages[-1].content == done.results[0].result


async def test_leaving_ends_the_run_and_its_tools() -> None:
    seen: list[str] = []
    store = MemoryRuns()
    agents = agents_of(ScriptedModel(calling(("wait", {}))), declared("wait"), waiting_tool(seen), store=store)
    session = agents.begin("a", CALLER, user_message("hi"))
    async with aclosing(session.events()) as events:
        assert isinstance(await anext(events), ToolCalled)
        await begun(seen)
    assert "ended" in seen
    run = await store.get("tenant", session.run.id)
    assert run is not None
    assert (run.status, run.outcome) == ("failed", "CLIENT_GONE")


async def test_leaving_while_the_model_writes_closes_its_stream() -> None:
    model = ScriptedModel(lambda request: [*saying("a")(request)[:1], 60.0])
    session = agents_of(model, declared()).begin("a", CALLER, user_message("hi"))
    async with aclosing(session.events()) as events:
        await anext(events)
        assert model.open == 1
    assert model.open == 0


async def test_a_run_is_cancelled_in_the_middle_of_a_tool() -> None:
    seen: list[str] = []
    store = MemoryRuns()
    agents = agents_of(ScriptedModel(calling(("wait", {}))), declared("wait"), waiting_tool(seen), store=store)
    session = agents.begin("a", CALLER, user_message("hi"))
    reading = asyncio.create_task(read(session))
    await begun(seen)
    with pytest.raises(NotFound):
        await agents.cancel(session.run.id, Caller("somebody else"))
    assert (await agents.cancel(session.run.id, CALLER)).status == "cancelled"
    with pytest.raises(Conflict, match="cancelled"):
        await reading
    assert "ended" in seen
    run = await store.get("tenant", session.run.id)
    assert run is not None
    assert (run.status, run.outcome) == ("cancelled", "CONFLICT")
    assert [step["kind"] for step in run.steps] == ["model", "tool"]
    assert (await agents.cancel(session.run.id, CALLER)).status == "cancelled"


async def test_a_run_that_another_process_cancels_ends_before_its_next_step() -> None:
    store = MemoryRuns()
    model = ScriptedModel(in_turns(calling(("stop", {})), saying("never")))

    async def stop() -> str:
        """Cancel the run, as another process would."""
        run_id = next(iter(store._runs))
        assert await store.change("tenant", run_id, "running", "cancelled", 0.0)
        await asyncio.sleep(LOOK_EVERY)
        return "done"

    agents = agents_of(model, declared("stop"), function_tool(stop), store=store)
    session = agents.begin("a", CALLER, user_message("hi"))
    with pytest.raises(Conflict, match="cancelled"):
        await read(session)
    assert len(model.requests) == 1
    run = await store.get("tenant", session.run.id)
    assert run is not None
    assert (run.status, len(run.steps)) == ("cancelled", 2)


async def test_a_reader_that_is_slow_costs_no_memory() -> None:
    model = ScriptedModel(saying(*["x"] * 5000))
    session = agents_of(model, declared()).begin("a", CALLER, user_message("hi"))
    async with aclosing(session.events()) as events:
        await anext(events)
        await asyncio.sleep(0.05)
        assert session._events.qsize() < 300
        assert len([event async for event in events]) == 5000


class Down(MemoryRuns):
    """A store that goes away once the run has begun."""

    async def save(self, run: AgentRun) -> bool:
        raise StoreUnavailable

    async def is_running(self, run_id: str) -> bool:
        raise StoreUnavailable


async def test_a_store_that_goes_away_takes_no_answer_with_it_but_lets_no_run_pause() -> None:
    async def nap() -> str:
        """Sleep."""
        await asyncio.sleep(LOOK_EVERY)
        return "done"

    script = in_turns(calling(("nap", {})), saying("the answer"))
    done = await ran(script, declared("nap"), function_tool(nap), store=Down())
    assert done.end.answer == "the answer"
    agents = agents_of(ScriptedModel(calling(("clock", {}))), declared("clock", approval=["clock"]), store=Down())
    with pytest.raises(StoreUnavailable):
        await read(agents.begin("a", CALLER, user_message("hi")))


@pytest.mark.parametrize("outcome", ["CANCELLED", "SHUT_DOWN", "CLIENT_GONE"])
async def test_what_ends_a_run_is_what_ends_the_models_call(outcome: str) -> None:
    scripted, book, store = ScriptedModel(lambda request: [60.0]), Books(), MemoryRuns()
    agents = agents_of(MeteredModel(scripted, Meter([book]), "/generate"), declared(), store=store)
    session = agents.begin("a", CALLER, user_message("hi"))
    reading = asyncio.create_task(read(session))
    async with asyncio.timeout(HANG_SECONDS):
        while not scripted.open:  # noqa: ASYNC110 - the model tells nobody
            await asyncio.sleep(0.01)
    if outcome == "CANCELLED":
        await agents.cancel(session.run.id, CALLER)
    elif outcome == "SHUT_DOWN":
        await agents.aclose()
    else:
        reading.cancel()
    await asyncio.wait([reading])
    assert [record.outcome for record in book.closed] == [outcome]
    run = await store.get("tenant", session.run.id)
    ends = {"CANCELLED": ("cancelled", "CONFLICT"), "SHUT_DOWN": ("failed", "SHUT_DOWN")}
    assert run is not None and (run.status, run.outcome) == ends.get(outcome, ("failed", "CLIENT_GONE"))
