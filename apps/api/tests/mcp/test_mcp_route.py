"""The MCP server over a real socket, with the package's own client: tools by the caller's key, errors, leaving."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.process import NAME, VERSION
from apps.models.scripted import ScriptedModel, calling, in_turns, saying
from apps.tests.support.agent_serving import Book, agent, serving_agents
from apps.tests.support.keys import make_keys
from apps.tests.support.mcp_clients import connected, text_of
from apps.tests.support.reading import envelope
from apps.tests.support.serving import settings

COMPUTING = in_turns(
    calling(("calculator", {"expression": "1234 * 5678"}), usage=Usage(10, 5, 0, 0.25)), saying("It is 7006652.")
)
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
HEADERS = {"Accept": "application/json, text/event-stream"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.long
async def test_a_real_client_lists_and_calls_the_tools(mode: str) -> None:
    book = Book()
    model = ScriptedModel(lambda r: (COMPUTING if r.tools else saying("from ", "here"))(r))
    with serving_agents({"calc-1": agent("calculator", description="Computes")}, model, books=[book]) as url:
        async with connected(url, mode=mode) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"generate", "local_generate", "agent_calc_1"}
            assert tools["agent_calc_1"].description == "Computes"
            assert tools["generate"].input_schema["properties"]["temperature"]["maximum"] == 2
            local = await client.call_tool("local_generate", {"prompt": "hi"})
            cloud = await client.call_tool("generate", {"prompt": "hi"})
            computed = await client.call_tool("agent_calc_1", {"prompt": "What is 1234 * 5678?"})
            wrong = await client.call_tool("generate", {"prompt": "hi", "temperature": 3})
            unknown = await client.call_tool("nothing", {})
            told = client.server_info
    assert told is not None
    assert (told.name, told.version) == (NAME, VERSION)
    assert text_of(local) == "from here"
    assert text_of(cloud) == "from the cloud"
    assert text_of(computed) == "It is 7006652."
    assert computed.structured_content["usage"]["cost"] == 0.25
    assert wrong.is_error
    assert text_of(wrong) == "INVALID_VALUE: Temperature must be between 0 and 2"
    assert wrong.structured_content["error"]["field"] == "temperature"
    assert unknown.is_error
    assert [(r.route, r.requested_model, r.cost) for r in book.closed if r.requested_model.startswith("agent/")] == [
        ("/mcp", "agent/calc-1", 0.25)
    ]
    assert {record.route for record in book.closed} == {"/mcp"}


@pytest.mark.long
async def test_a_key_sees_and_calls_what_it_reaches_and_no_more(tmp_path: Path) -> None:
    terms: list[dict[str, Any]] = [
        {},
        {"models": ["agent/a", "scripted"], "routes": ["/mcp", "/agents/*", "/local/generate"]},
        {"routes": ["/generate"]},
    ]
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path}
    everything, some, elsewhere = await asyncio.to_thread(make_keys, settings(**changes), *terms)
    with serving_agents({"a": agent(), "b": agent()}, ScriptedModel(saying("x")), **changes) as url:
        async with connected(url, everything) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"generate", "local_generate", "agent_a", "agent_b"}
        async with connected(url, some) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names == {"local_generate", "agent_a"}
            for name in ("generate", "agent_b"):
                refused = await client.call_tool(name, {"prompt": "hi"})
                assert refused.is_error
                assert "NOT_FOUND" in text_of(refused)
        async with httpx2.AsyncClient(timeout=90) as http:
            nobody = await http.post(f"{url}/mcp", json=CALL, headers=HEADERS)
            bearer = {"Authorization": f"Bearer {elsewhere}"}
            other = await http.post(f"{url}/mcp", json=CALL, headers=HEADERS | bearer)
    assert (nobody.status_code, envelope(nobody)["code"]) == (401, "UNAUTHORIZED")
    assert (other.status_code, envelope(other)["code"]) == (403, "FORBIDDEN")


async def test_the_budget_of_a_route_counts_here_too() -> None:
    model = ScriptedModel(saying("x"))
    with serving_agents({}, model, rate_limit_enabled=True, rate_limit_local="2/minute") as url:
        async with connected(url) as client, httpx2.AsyncClient(timeout=90) as http:
            assert (await http.post(f"{url}/local/generate", json={"prompt": "hi"})).status_code == 200
            assert not (await client.call_tool("local_generate", {"prompt": "hi"})).is_error
            third = await client.call_tool("local_generate", {"prompt": "hi"})
            assert (await http.post(f"{url}/local/generate", json={"prompt": "hi"})).status_code == 429
    assert third.is_error
    assert "RATE_LIMIT_EXCEEDED: Rate limit exceeded: 2 per 1 minute" in text_of(third)


def test_every_answer_tells_where_the_limit_stands(http: httpx2.Client) -> None:
    with serving_agents({}, ScriptedModel(saying("x")), rate_limit_enabled=True, rate_limit_mcp="2/minute") as url:
        first, second, third = (http.post(f"{url}/mcp", json=CALL, headers=HEADERS) for _ in range(3))
    assert [answer.status_code for answer in (first, second, third)] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in (first, second, third)] == ["1", "0", "0"]
    for answer in (first, second, third):
        assert answer.headers["x-ratelimit-limit"] == "2"
        assert answer.headers["x-ratelimit-reset"].isdigit()
        assert answer.headers["ratelimit"].startswith('"mcp";r=')
        assert answer.headers["ratelimit-policy"] == '"mcp";q=2;w=60'
    assert first.headers["content-type"] == "application/json"


async def test_strangers_pages_wrong_methods_and_large_bodies_are_refused_with_the_envelope(
    http: httpx2.Client,
) -> None:
    with serving_agents({}, ScriptedModel(saying("x")), max_body_bytes=2048) as url:
        page = http.post(f"{url}/mcp", json=CALL, headers={**HEADERS, "Origin": "http://evil.example"})
        own = http.post(f"{url}/mcp", json=CALL, headers={**HEADERS, "Origin": "http://localhost:6274"})
        get = http.get(f"{url}/mcp")
        large = http.post(f"{url}/mcp", content=b"x" * 4096, headers={"Content-Type": "application/json"})
    assert (page.status_code, envelope(page)["code"]) == (403, "FORBIDDEN")
    assert own.status_code == 200
    assert (get.status_code, envelope(get)["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert (large.status_code, envelope(large)["code"]) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("version", ["2025-06-18", "2026-07-28"])
@pytest.mark.long
async def test_a_client_that_leaves_ends_its_call(version: str, http: httpx2.Client) -> None:
    model = ScriptedModel(lambda request: [60.0, Delta("late")])
    meta = {"io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {}}
    params = {"name": "local_generate", "arguments": {"prompt": "hi"}, "_meta": meta}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        **HEADERS,
        "MCP-Protocol-Version": version,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "local_generate",
    }
    with serving_agents({}, model) as url:
        async with httpx2.AsyncClient(timeout=1.5) as leaving:
            with pytest.raises(httpx2.ReadTimeout):
                answer = await leaving.post(f"{url}/mcp", json=call, headers=headers)
                raise AssertionError(answer.text)
        for _ in range(150):
            if not model.open:
                break
            await asyncio.sleep(0.02)
        assert model.requests
        assert model.open == 0
