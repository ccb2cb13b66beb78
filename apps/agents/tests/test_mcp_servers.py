"""Tools of MCP servers, over stdio and over HTTP, with real servers: alive, dead and hung."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvicorn

from apps.agents.agents import Agents
from apps.agents.config import AgentsConfig, McpServerConfig
from apps.agents.roster import McpServers, Roster
from apps.agents.tests.running import CALLER, declared, read
from apps.agents.tools import Redaction, ToolContext, ToolError
from apps.core.agent_runs import MemoryRuns
from apps.core.errors import ModelUnavailable
from apps.core.messages import user_message
from apps.models.scripted import ScriptedModel, calling, in_turns, saying
from apps.tests.marks import marked

PROGRAM = Path(__file__).parents[2] / "tests" / "support" / "mcp_stdio_server.py"
KEY, TOKEN = marked("key of an MCP server"), marked("token of an MCP server")
TOOLS = ("add", "secret", "sleep", "die")
CONTEXT = ToolContext(CALLER)


def lookup(name: str) -> str:
    return {"SMALL_SERVER_KEY": KEY, "TOKEN": f"Bearer {TOKEN}", "OTHER_SECRET": "do-not-tell"}.get(name, "")


def stdio(*arguments: str, **more: object) -> McpServerConfig:
    values = {"command": (sys.executable, str(PROGRAM), *arguments), "env": ("SMALL_SERVER_KEY",), "tools": TOOLS}
    return McpServerConfig.model_validate({**values, "connect_seconds": 60, **more})


@pytest.fixture
async def servers() -> AsyncIterator[McpServers]:
    opened = McpServers({"small": stdio(call_seconds=1.0)}, lookup)
    yield opened
    await opened.aclose()


async def test_tools_over_stdio_are_the_allowed_ones(servers: McpServers) -> None:
    tools = {tool.name: tool for tool in await servers.tools("small", "*")}
    assert set(tools) == {"small_add", "small_secret", "small_sleep", "small_die"}
    add = tools["small_add"]
    assert add.description == "Add two numbers."
    assert add.parameters["properties"]["a"]["type"] == "integer"
    assert await add.invoke(CONTEXT, {"a": 2, "b": 3}) == "5"
    with pytest.raises(ToolError, match="Wrong arguments"):
        await add.invoke(CONTEXT, {"a": "two"})
    with pytest.raises(ModelUnavailable, match="no tool forbidden"):
        await servers.tools("small", "forbidden")


@pytest.mark.long
async def test_a_hung_call_ends_in_time_and_a_dead_server_is_started_anew(servers: McpServers) -> None:
    sleep, die, add = [(await servers.tools("small", name))[0] for name in ("sleep", "die", "add")]
    with pytest.raises(ToolError, match="did not answer in 1 s"):
        await sleep.invoke(CONTEXT, {"seconds": 600})
    with pytest.raises(ToolError):
        await die.invoke(CONTEXT, {})
    for _ in range(3):
        try:
            assert await add.invoke(CONTEXT, {"a": 1, "b": 1}) == "2"
            break
        except ToolError:
            await asyncio.sleep(0.1)
    else:
        raise AssertionError("the server was not started again")


@pytest.mark.parametrize(
    "config",
    [
        McpServerConfig(command=("/no/such/program",), tools=("x",)),
        McpServerConfig(command=(sys.executable, "-c", "raise SystemExit(1)"), tools=("x",), connect_seconds=5),
        stdio("hang", connect_seconds=1.0),
        McpServerConfig(url="http://127.0.0.1:9/mcp", tools=("x",), connect_seconds=5),
    ],
)
@pytest.mark.long
async def test_a_server_that_is_not_there_is_a_clear_error_within_a_bound(config: McpServerConfig) -> None:
    servers = McpServers({"gone": config}, lookup)
    with pytest.raises(ModelUnavailable, match="The MCP server gone ") as raised:
        await servers.tools("gone", "*")
    assert raised.value.details == {"mcp_server": "gone"}
    results = await asyncio.gather(*(servers.tools("gone", "*") for _ in range(20)), return_exceptions=True)
    assert all(isinstance(result, ModelUnavailable) for result in results)
    assert len({id(result) for result in results}) == 1, "one attempt failed for all of them"
    await servers.aclose()


@pytest.mark.long
async def test_a_run_uses_the_tools_and_the_servers_key_is_in_no_step() -> None:
    config = AgentsConfig(mcp_servers={"small": stdio()}, agents={"a": declared("small/add", "small/secret")})
    script = in_turns(calling(("small_add", {"a": 1, "b": 2}), ("small_secret", {})), saying("3"))
    roster = Roster(config, {}, McpServers(config.mcp_servers, lookup), Redaction([KEY]))
    agents = Agents(roster, ScriptedModel(script), MemoryRuns())
    session = agents.begin("a", CALLER, user_message("hi"))
    events = await read(session)
    await agents.aclose()
    results = {step["tool"]: step["result"] for step in session.run.steps if step["kind"] == "tool"}
    assert results == {"small_add": "3", "small_secret": "my key is [secret] and unset"}
    assert KEY not in repr(events) + repr(session.run)


@pytest.fixture
def http_server() -> Iterator[tuple[str, list[str]]]:
    """The same over streamable HTTP, and the Authorization headers that came."""
    from apps.tests.support.mcp_stdio_server import server

    seen: list[str] = []
    inner = server.streamable_http_app(stateless_http=True, json_response=True)

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        if scope["type"] == "http":
            seen.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        await inner(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", seen
        running.should_exit = True
        thread.join(90)


async def test_tools_over_http_with_the_operators_header(http_server: tuple[str, list[str]]) -> None:
    url, seen = http_server
    config = McpServerConfig(url=url, tools=("add",), headers_env={"Authorization": "TOKEN"})
    servers = McpServers({"web": config}, lookup)
    (add,) = await servers.tools("web", "*")
    assert await add.invoke(CONTEXT, {"a": 20, "b": 22}) == "42"
    await servers.aclose()
    assert set(seen) == {f"Bearer {TOKEN}"}
