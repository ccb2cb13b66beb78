"""The loop over a scripted model: tools, their failures, parallel calls, answers to a schema."""

import asyncio
import json
from typing import Any

import pytest

from apps.agents.agents import AgentModel
from apps.agents.config import LimitsConfig
from apps.agents.tests.running import CALLER, agents_of, declared, ran, read
from apps.agents.tools import AgentTool, ToolError, function_tool
from apps.core.calls import Usage
from apps.core.deltas import Delta, ToolCallDelta, collect
from apps.core.errors import InvalidValue, ModelUnavailable, NotFound, UpstreamError
from apps.core.messages import ChatRequest, Message, user_message
from apps.models.scripted import ScriptedModel, calling, in_turns, saying

USED = Usage(10, 5, 2, 0.25)


def meeting_tool(name: str, meeting: asyncio.Barrier) -> AgentTool:
    async def meet() -> str:
        """Wait for the others."""
        await meeting.wait()
        return f"{name} is done"

    return function_tool(meet, name=name)


def broken_tool() -> AgentTool:
    async def broken() -> str:
        """Fail."""
        raise ValueError("with a password in it: hunter2")

    return function_tool(broken)


async def test_several_tools_one_after_the_other_and_the_account_of_it() -> None:
    script = in_turns(
        calling(("calculator", {"expression": "1234 * 5678"}), usage=USED),
        calling(("clock", {"time_zone": "UTC"}), text="and now", usage=USED),
        saying("it is ", "7006652"),
    )
    done = await ran(script, declared("calculator", "clock", instructions="Be exact."))
    assert [(c.tool, c.arguments) for c in done.called] == [
        ("calculator", {"expression": "1234 * 5678"}),
        ("clock", {"time_zone": "UTC"}),
    ]
    assert done.results[0].result == "7006652"
    assert (done.end.finish_reason, done.end.answer) == ("stop", "it is 7006652")
    run = done.run
    assert (run.status, run.outcome, run.tenant, run.key_id) == ("done", "ok", "tenant", "key")
    assert (run.prompt_tokens, run.completion_tokens, run.cached_tokens, run.cost) == (20, 10, 4, 0.5)
    assert [step["kind"] for step in run.steps] == ["model", "tool", "model", "tool", "model"]
    roles = [message.role for message in done.model.requests[-1].messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert done.model.requests[0].caller is CALLER


async def test_calls_that_are_asked_for_together_run_together() -> None:
    script = in_turns(calling(("one", {}), ("two", {}), ("three", {})), saying("done"))
    meeting = asyncio.Barrier(3)
    tools = [meeting_tool(name, meeting) for name in ("one", "two", "three")]
    done = await ran(script, declared("one", "two", "three"), *tools)
    assert {r.result for r in done.results} == {"one is done", "two is done", "three is done"}


async def test_failures_go_back_to_the_model_as_data() -> None:
    script = in_turns(
        calling(
            ("broken", {}),
            ("calculator", {"expression": "1 / 0"}),
            ("calculator", {"wrong": 1}),
            ("calculator", "{no json"),
            ("calculator", "[1]"),
            ("delete_everything", {}),
        ),
        saying("sorry"),
    )
    done = await ran(script, declared("broken", "calculator"), broken_tool())
    told = {r.id: r.result for r in done.results}
    assert all(r.failed for r in done.results)
    assert told["call_0_0"] == "Error: The tool failed (ValueError)"
    assert told["call_0_1"] == "Error: Division by zero"
    assert told["call_0_2"].startswith("Error: Wrong arguments: ")
    assert told["call_0_3"] == told["call_0_4"] == "Error: The arguments are no JSON object"
    assert "delete_everything" in told["call_0_5"]
    assert "hunter2" not in json.dumps(done.run.steps)
    assert done.end.answer == "sorry"


async def test_calls_without_ids_of_their_own_get_some() -> None:
    same = tuple(ToolCallDelta(i, "same", "calculator", json.dumps({"expression": f"{i} + 1"})) for i in range(2))
    first = [Delta(tool_calls=same), Delta(finish_reason="tool_calls", model="m")]
    done = await ran(in_turns(lambda _: first, saying("ok")), declared("calculator"))
    assert len({c.id for c in done.called}) == 2
    assert sorted(r.result for r in done.results) == ["1", "2"]


async def test_what_the_model_is_offered_follows_the_declaration() -> None:
    script = in_turns(calling(("calculator", {"expression": "1 + 1"})), saying("2"))
    agent = declared(
        "calculator",
        first_step="tool",
        parallel_tool_calls=False,
        temperature=0,
        stop=("END",),
        limits=LimitsConfig(tool_rounds=1, answer_tokens=77),
    )
    first, second = (await ran(script, agent)).model.requests
    assert (first.tool_choice, first.parallel_tool_calls, first.temperature) == ("required", False, 0)
    assert (first.max_tokens, first.stop) == (77, ("END",))
    assert [tool["function"]["name"] for tool in first.tools] == ["calculator"]
    assert (second.tools, second.tool_choice) == ((), None)


async def test_an_answer_is_held_to_the_agents_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    script = in_turns(saying("no json"), saying('{"n": "one"}'), saying('{"n": ', "1}"))
    turns = iter((saying("no json"), saying('{"n": "one"}'), saying('{"n": ', "1}")))
    done = await ran(lambda request: next(turns)(request), declared(output_schema=schema))
    assert (done.text, done.end.answer) == ('{"n": 1}', '{"n": 1}')
    form = done.model.requests[0].response_format
    assert form is not None
    assert form["json_schema"]["schema"] == schema
    with pytest.raises(UpstreamError):
        await ran(lambda request: script(request), declared(output_schema=schema))


async def test_errors_of_the_model_end_the_run_with_their_own_code() -> None:
    def failing(request: object) -> list[Delta | Exception]:
        return [ModelUnavailable("loading", retry_after=5)]

    agents = agents_of(ScriptedModel(failing), declared("calculator"))
    session = agents.begin("a", CALLER, user_message("hi"))
    with pytest.raises(ModelUnavailable):
        await read(session)
    assert (session.run.status, session.run.outcome) == ("failed", "MODEL_UNAVAILABLE")
    assert session.run.error is not None
    assert session.run.error["message"] == "loading"


async def test_conversations_that_no_agent_can_answer_are_refused() -> None:
    agents = agents_of(ScriptedModel(saying("x")), declared())
    with pytest.raises(NotFound):
        agents.begin("nobody", CALLER, user_message("hi"))
    picture = Message("user", [{"type": "image_url"}])
    for messages in ([Message("assistant", "hi")], [Message("tool", "1"), Message("user", "x")], [picture]):
        with pytest.raises(InvalidValue):
            agents.begin("a", CALLER, messages)


async def test_a_conversation_is_handed_on_whole() -> None:
    model = ScriptedModel(saying("fine"))
    agents = agents_of(model, declared(instructions="Be kind."))
    talk = [Message("user", "one"), Message("assistant", "two"), Message("system", "brief"), Message("user", "three")]
    await read(agents.begin("a", CALLER, talk))
    said = [(message.role, message.content) for message in model.requests[0].messages]
    assert said == [("system", "Be kind."), *((message.role, message.content) for message in talk)]


async def test_a_tool_says_what_went_wrong_in_its_own_words() -> None:
    async def picky() -> str:
        """Be picky."""
        raise ToolError("not today")

    done = await ran(in_turns(calling(("picky", {})), saying("ok")), declared("picky"), function_tool(picky))
    assert done.results[0].result == "Error: not today"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": ({"type": "function", "function": {"name": "f"}},)}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"answer_choices": ("a", "b")}, "structured_outputs"),
        ({"top_logprobs": 0}, "logprobs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"template_arguments": {"a": 1}}, "chat_template_kwargs"),
    ],
)
async def test_what_an_agent_decides_or_cannot_honour_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    model = AgentModel(agents_of(ScriptedModel(saying("hi")), declared()))
    with pytest.raises(InvalidValue) as refused:
        await collect(model.stream(ChatRequest(user_message("hi"), model="agent/a", caller=CALLER, **fields)))
    assert refused.value.field == field
