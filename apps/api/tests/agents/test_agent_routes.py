"""The routes of agents over a real socket: runs as JSON and as streams, their records, their errors."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import httpx2
import pytest

from apps.agents.tools import AgentTool, function_tool
from apps.core.calls import Usage
from apps.core.errors import ModelUnavailable
from apps.models.scripted import ScriptedModel, calling, in_turns, saying
from apps.tests.support.agent_serving import Book, agent, limits, read_run, serving_agents
from apps.tests.support.reading import envelope
from apps.tests.support.waiting import until

USED = Usage(10, 5, 0, 0.25)
COMPUTING = in_turns(calling(("calculator", {"expression": "1234 * 5678"}), usage=USED), saying("It is ", "7006652."))
ASK = {"prompt": "What is 1234 * 5678?"}


def waiting(seen: list[str]) -> AgentTool:
    async def wait() -> str:
        """Wait."""
        seen.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")
        return "never"

    return function_tool(wait)


def test_a_run_as_json_with_its_steps_usage_and_record(http: httpx2.Client) -> None:
    book = Book()
    with serving_agents({"calc": agent("calculator")}, ScriptedModel(COMPUTING), books=[book]) as url:
        answer = http.post(f"{url}/agents/calc/run", json=ASK)
        run = answer.json()
        kept = http.get(f"{url}/agents/runs/{run['run']}").json()
    assert answer.status_code == 200
    assert (answer.headers["x-run-id"], answer.headers["x-model"]) == (run["run"], "scripted")
    assert (run["answer"], run["status"], run["finish_reason"]) == ("It is 7006652.", "done", "stop")
    assert [step["kind"] for step in run["steps"]] == ["model", "tool", "model"]
    assert run["steps"][1]["result"] == "7006652"
    assert run["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "cached_tokens": 0,
        "cost": 0.25,
    }
    assert kept == run
    (record,) = book.closed
    assert (record.route, record.requested_model, record.model) == ("/agents/{name}/run", "agent/calc", "scripted")
    assert (record.prompt_tokens, record.completion_tokens, record.cost, record.outcome) == (10, 5, 0.25, "ok")


def test_a_streamed_run_tells_calls_results_text_and_one_end(http: httpx2.Client) -> None:
    with serving_agents({"calc": agent("calculator")}, ScriptedModel(COMPUTING)) as url:
        answer = http.post(f"{url}/agents/calc/run?stream=true", json=ASK)
        plain = http.post(f"{url}/agents/calc/run?stream=true", json=ASK, headers={"Accept": "text/plain"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    stream = read_run(answer.content)
    assert stream.kinds == ["tool_call", "tool_result", "message", "message", "done"]
    assert json.loads(stream.events[0][1]) == {
        "id": "call_0_0",
        "tool": "calculator",
        "arguments": {"expression": "1234 * 5678"},
    }
    assert json.loads(stream.events[1][1])["result"] == "7006652"
    done = json.loads(stream.events[-1][1])
    assert (done["finish_reason"], done["answer"], done["usage"]["cost"]) == ("stop", "It is 7006652.", 0.25)
    assert answer.headers["x-run-id"] == done["run"]
    assert plain.text == "It is 7006652."


def test_a_conversation_and_overrides_reach_the_model(http: httpx2.Client) -> None:
    model = ScriptedModel(saying("fine"))
    body = {
        "messages": [
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "My name?"},
        ],
        "temperature": 0.3,
        "top_p": 0.8,
        "max_tokens": 7,
    }
    with serving_agents({"a": agent(instructions="Be kind.")}, model) as url:
        assert http.post(f"{url}/agents/a/run", json=body).status_code == 200
    (request,) = model.requests
    assert [m.content for m in request.messages] == ["Be kind.", "My name is Ada.", "Hello.", "My name?"]
    assert (request.temperature, request.top_p, request.max_tokens) == (0.3, 0.8, 7)


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    """A service with one agent that says x."""
    with serving_agents({"a": agent()}, ScriptedModel(saying("x"))) as url:
        yield url


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "MISSING_REQUIRED_FIELD", "prompt"),
        ({"prompt": ""}, "INVALID_VALUE", "prompt"),
        ({"prompt": "x" * 1001}, "INVALID_VALUE", "prompt"),
        ({"prompt": 3}, "INVALID_TYPE", "prompt"),
        ({"prompt": "x", "temperature": 3}, "INVALID_VALUE", "temperature"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "y"}]}, "INVALID_VALUE", "messages"),
        ({"messages": []}, "INVALID_VALUE", "messages"),
        ({"messages": [{"role": "assistant", "content": "y"}]}, "INVALID_VALUE", "messages"),
        ({"messages": [{"role": "robot", "content": "y"}]}, "INVALID_VALUE", "messages.0.role"),
        ({"prompt": "x", "model": "gpt-4o"}, "INVALID_VALUE", "model"),
    ],
)
def test_wrong_bodies_are_told_as_everywhere(body: Any, code: str, field: str, plain: str, http: httpx2.Client) -> None:
    error = envelope(http.post(f"{plain}/agents/a/run", json=body))
    assert (error["code"], error["field"]) == (code, field)


def test_what_fails_before_the_first_event_has_its_status_and_what_fails_later_ends_the_stream(
    http: httpx2.Client,
) -> None:
    def failing(request: object) -> list[Exception]:
        return [ModelUnavailable("loading", retry_after=5)]

    late = in_turns(calling(("calculator", {"expression": "1"})), failing)
    with serving_agents({"a": agent("calculator")}, ScriptedModel(failing)) as url:
        for path in ("/agents/a/run", "/agents/a/run?stream=true"):
            answer = http.post(url + path, json=ASK)
            assert (answer.status_code, envelope(answer)["code"]) == (503, "MODEL_UNAVAILABLE")
            failed = http.get(f"{url}/agents/runs/{answer.headers['x-run-id']}").json()
            assert (failed["status"], failed["error"]["code"]) == ("failed", "MODEL_UNAVAILABLE")
        assert envelope(http.post(f"{url}/agents/b/run", json=ASK))["code"] == "NOT_FOUND"
        assert envelope(http.get(f"{url}/agents/runs/none"))["code"] == "NOT_FOUND"
        assert envelope(http.get(f"{url}/agents/a/run"))["code"] == "METHOD_NOT_ALLOWED"
    with serving_agents({"a": agent("calculator")}, ScriptedModel(late)) as url:
        stream = read_run(http.post(f"{url}/agents/a/run?stream=true", json=ASK).content)
    assert stream.kinds == ["tool_call", "tool_result", "error"]
    assert json.loads(stream.events[-1][1])["error"]["code"] == "MODEL_UNAVAILABLE"


def test_an_endless_loop_ends_at_its_bound(http: httpx2.Client) -> None:
    book = Book()
    model = ScriptedModel(calling(("calculator", {"expression": "1 + 1"}), usage=USED))
    with serving_agents({"a": agent("calculator")}, model, books=[book]) as url:
        error = envelope(http.post(f"{url}/agents/a/run", json=ASK))
        stream = read_run(http.post(f"{url}/agents/a/run?stream=true", json=ASK).content)
        kept = http.get(f"{url}/agents/runs/{error['details']['run']}").json()
    assert (error["code"], error["details"]["limit"], error["details"]["max"]) == ("INVALID_VALUE", "steps", 10)
    assert stream.kinds.count("tool_call") == 10
    assert stream.kinds[-1] == "error"
    assert (kept["status"], kept["outcome"], len(kept["steps"])) == ("failed", "INVALID_VALUE", 20)
    assert [record.prompt_tokens for record in book.closed] == [100, 100]


def test_the_agents_are_listed_with_their_tools(http: httpx2.Client) -> None:
    agents = {"calc": agent("calculator", description="Computes"), "web": agent("fetch", approval=["fetch"])}
    with serving_agents(agents, ScriptedModel(saying("x"))) as url:
        listed = http.get(f"{url}/agents").json()["agents"]
        models = [model["id"] for model in http.get(f"{url}/v1/models").json()["data"]]
    assert [(one["name"], one["model"], one["description"]) for one in listed] == [
        ("calc", "agent/calc", "Computes"),
        ("web", "agent/web", ""),
    ]
    assert listed[1]["tools"][0]["approval"] is True
    assert listed[0]["limits"]["steps"] == 10
    assert {"agent/calc", "agent/web"} <= set(models)


def test_approvals_over_http(http: httpx2.Client) -> None:
    script = in_turns(calling(("clock", {}), usage=USED), saying("done"))
    book = Book()
    with serving_agents({"a": agent("clock", approval=["clock"])}, ScriptedModel(script), books=[book]) as url:
        stream = read_run(http.post(f"{url}/agents/a/run?stream=true", json=ASK).content)
        assert stream.kinds == ["tool_call", "approval_required", "done"]
        asked, done = (json.loads(data) for _, data in stream.events[1:])
        assert (done["finish_reason"], done["status"]) == ("approval_required", "paused")
        assert [call["tool"] for call in asked["calls"]] == ["clock"]
        approve = f"{url}/agents/runs/{asked['run']}/approve"
        rest = read_run(http.post(f"{approve}?stream=true").content)
        assert rest.kinds == ["tool_result", "message", "done"]
        assert envelope(http.post(approve))["code"] == "CONFLICT"
        paused = http.post(f"{url}/agents/a/run", json=ASK).json()
        assert (paused["status"], paused["finish_reason"]) == ("paused", "approval_required")
        denied = http.post(f"{url}/agents/runs/{paused['run']}/deny?reason=no").json()
        assert (denied["status"], denied["answer"]) == ("done", "done")
        decision, refused = denied["steps"][1:3]
        assert (decision["approved"], decision["reason"], decision["key_id"]) == (False, "no", None)
        assert refused["result"] == "This call was denied: no"
        assert envelope(http.delete(f"{url}/agents/runs/{paused['run']}"))["code"] == "CONFLICT"
    assert [record.route for record in book.closed][:2] == ["/agents/{name}/run", "/agents/runs/{id}/approve"]
    assert [record.prompt_tokens for record in book.closed] == [10, 0, 10, 0]
    assert [record.attempts for record in book.closed] == [1, 1, 1, 1]


def test_a_run_is_cancelled_in_the_middle_of_a_tool(http: httpx2.Client) -> None:
    seen: list[str] = []
    answers: list[httpx2.Response] = []
    with serving_agents({"a": agent("wait")}, ScriptedModel(calling(("wait", {}))), waiting(seen)) as url:
        with httpx2.stream("POST", f"{url}/agents/a/run?stream=true", json=ASK, timeout=90) as stream:
            assert until(lambda: "began" in seen)
            run_id = stream.headers["x-run-id"]
            cancelling = threading.Thread(target=lambda: answers.append(http.delete(f"{url}/agents/runs/{run_id}")))
            cancelling.start()
            body = stream.read()
            cancelling.join()
        kept = http.get(f"{url}/agents/runs/{run_id}").json()
    assert answers[0].json()["status"] == "cancelled"
    assert answers[0].json()["ended_at"] is not None
    assert seen == ["began", "ended"]
    end = read_run(body)
    assert (end.kinds[-1], json.loads(end.events[-1][1])["error"]["code"]) == ("error", "CONFLICT")
    assert (kept["status"], kept["outcome"]) == ("cancelled", "CONFLICT")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_ends_the_run_and_its_tools(streamed: bool, http: httpx2.Client) -> None:
    seen: list[str] = []
    book = Book()
    path = "/agents/a/run" + ("?stream=true" if streamed else "")
    model = ScriptedModel(calling(("wait", {})))
    with serving_agents({"a": agent("wait")}, model, waiting(seen), books=[book]) as url:
        leaving = HTTPConnection(url.removeprefix("http://"), timeout=90)
        leaving.request("POST", path, json.dumps(ASK), {"Content-Type": "application/json"})
        assert until(lambda: seen)
        leaving.close()
        assert until(lambda: book.closed)
    assert seen == ["began", "ended"]
    assert book.closed[0].outcome == "CLIENT_GONE"


def test_calls_are_limited_an_address(http: httpx2.Client) -> None:
    model = ScriptedModel(saying("x"))
    with serving_agents({"a": agent()}, model, rate_limit_enabled=True, rate_limit_agents="2/minute") as url:
        codes = [http.get(f"{url}/agents").status_code for _ in range(3)]
    assert codes == [200, 200, 429]


def test_the_page_describes_the_routes_with_their_errors(http: httpx2.Client) -> None:
    with serving_agents({"a": agent()}, ScriptedModel(saying("x"))) as url:
        paths = http.get(f"{url}/openapi.json").json()["paths"]
    run = paths["/agents/{name}/run"]["post"]
    assert {"200", "401", "403", "404", "422", "429", "500", "502", "503", "504"} <= set(run["responses"])
    assert "text/event-stream" in run["responses"]["200"]["content"]
    assert run["requestBody"]["content"]["application/json"]["schema"]
    for path in ("/agents", "/agents/runs/{id}", "/agents/runs/{id}/approve", "/agents/runs/{id}/deny", "/mcp"):
        assert path in paths
    assert limits(steps=3).steps == 3
