"""A reload of the declarations: runs under way end with what they began with, servers nobody uses are closed."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from apps.agents.agents import Agents
from apps.agents.config import AgentsConfig, AgentsConfigError, McpServerConfig
from apps.agents.mcp_connection import McpServer
from apps.agents.roster import McpServers, Roster
from apps.agents.session import RunSession
from apps.agents.tests.running import CALLER, OWN, declared, read
from apps.agents.tools import AgentTool, function_tool
from apps.core.agent_runs import MemoryRuns
from apps.core.errors import Conflict, NotFound
from apps.core.messages import user_message
from apps.models.scripted import Script, ScriptedModel, calling, in_turns, saying

PROGRAM = Path(__file__).parents[2] / "tests" / "support" / "mcp_stdio_server.py"
ADDING = in_turns(calling(("wait", {})), calling(("small_add", {"a": 1, "b": 2})), saying("3"))
AGENT = declared("wait", "small/add", instructions="old")


def server(**more: object) -> McpServerConfig:
    values = {"command": (sys.executable, str(PROGRAM)), "tools": ("add",), "connect_seconds": 60}
    return McpServerConfig.model_validate({**values, **more})


WITH_SERVER = AgentsConfig(mcp_servers={"small": server()}, agents={"a": AGENT})
WITHOUT = AgentsConfig(agents={"b": declared("clock")})


class File:
    """Implements what reads the file: it holds what was put there last."""

    def __init__(self, config: AgentsConfig, script: Script) -> None:
        self.config: AgentsConfig | AgentsConfigError = config
        self.secret = "first"
        self.waiting, self.go = asyncio.Event(), asyncio.Event()
        self.model = ScriptedModel(script)
        self.agents = Agents(self.read(None), self.model, MemoryRuns(), read=self.read)

    def read(self, before: Roster | None) -> Roster:
        if isinstance(self.config, AgentsConfigError):
            raise self.config
        servers = McpServers(
            self.config.mcp_servers, lambda name: self.secret, before.servers if before is not None else None
        )
        tools: tuple[AgentTool, ...] = (*OWN, function_tool(self.wait))
        return Roster(self.config, {tool.name: tool for tool in tools}, servers)

    async def wait(self) -> str:
        """Wait."""
        self.waiting.set()
        await self.go.wait()
        return "waited"

    def put(self, config: AgentsConfig | AgentsConfigError) -> None:
        self.config = config
        self.agents.reload()

    def begin(self, name: str = "a") -> RunSession:
        return self.agents.begin(name, CALLER, user_message("hi"))

    def server(self) -> McpServer:
        return self.agents.roster.servers._servers["small"]


@pytest.fixture
async def files() -> AsyncIterator[Callable[[AgentsConfig, Script], File]]:
    made: list[File] = []

    def make(config: AgentsConfig, script: Script) -> File:
        made.append(File(config, script))
        return made[-1]

    yield make
    for file in made:
        await file.agents.aclose()


Files = Callable[[AgentsConfig, Script], File]


def is_open(server: McpServer) -> bool:
    return any(not holder.done() for holder in server._holders)


async def closed(server: McpServer) -> None:
    async with asyncio.timeout(90):
        while is_open(server):  # noqa: ASYNC110 - another task's work
            await asyncio.sleep(0.01)


@pytest.mark.long
async def test_a_run_ends_on_what_it_began_with_and_then_its_server_is_closed(files: Files) -> None:
    file = files(WITH_SERVER, ADDING)
    session = file.begin()
    running = asyncio.create_task(read(session))
    await file.waiting.wait()
    old = file.server()
    file.put(WITHOUT)
    assert file.agents.names() == ["b"]
    with pytest.raises(NotFound):
        file.begin()
    await asyncio.sleep(0.1)
    assert is_open(old)
    file.go.set()
    await running
    results = {step["tool"]: step["result"] for step in session.run.steps if step["kind"] == "tool"}
    assert (session.run.status, results) == ("done", {"wait": "waited", "small_add": "3"})
    assert {request.messages[0].content for request in file.model.requests} == {"old"}
    assert all({t["function"]["name"] for t in r.tools} == {"wait", "small_add"} for r in file.model.requests)
    await closed(old)


@pytest.mark.long
async def test_a_server_that_stays_as_it_is_keeps_its_connection(files: Files) -> None:
    file = files(WITH_SERVER, ADDING)
    file.go.set()
    await read(file.begin())
    first = file.server()
    holders = set(first._holders)
    changed = AgentsConfig(mcp_servers=WITH_SERVER.mcp_servers, agents={"a": AGENT, "b": declared("clock")})
    for _ in range(50):
        file.put(changed)
    assert file.server() is first
    await read(file.begin())
    assert (is_open(first), set(first._holders), first.holders) == (True, holders, 1)
    assert len(file.agents._rosters) == 1


@pytest.mark.parametrize("change", ["declaration", "secret"])
@pytest.mark.long
async def test_a_server_that_changed_is_connected_to_anew_and_the_old_one_closed(change: str, files: Files) -> None:
    file = files(AgentsConfig(mcp_servers={"small": server(env=("KEY",))}, agents={"a": AGENT}), ADDING)
    file.go.set()
    await read(file.begin())
    old = file.server()
    if change == "secret":
        file.secret = "second"
    more = 20 if change == "declaration" else 30
    file.put(AgentsConfig(mcp_servers={"small": server(env=("KEY",), call_seconds=more)}, agents={"a": AGENT}))
    session = file.begin()
    await read(session)
    assert session.run.answer == "3"
    assert file.server() is not old
    assert is_open(file.server())
    await closed(old)


@pytest.mark.long
async def test_a_run_that_begins_late_on_an_old_roster_leaves_no_server_open(files: Files) -> None:
    file = files(WITH_SERVER, ADDING)
    file.go.set()
    session, old = file.begin(), file.server()
    file.put(WITHOUT)
    await read(session)
    assert session.run.answer == "3"
    await closed(old)


async def test_a_wrong_file_changes_nothing(files: Files) -> None:
    file = files(WITH_SERVER, ADDING)
    file.go.set()
    before = file.agents.roster
    with pytest.raises(AgentsConfigError):
        file.put(AgentsConfigError("wrong"))
    assert file.agents.roster is before
    session = file.begin()
    await read(session)
    assert (session.run.answer, is_open(file.server())) == ("3", True)


async def test_a_paused_run_goes_on_with_the_file_as_it_is_then(files: Files) -> None:
    asking = in_turns(calling(("clock", {}), ("wait", {})), saying("done"))
    both = declared("clock", "wait", approval=["clock", "wait"])
    file = files(AgentsConfig(agents={"a": both}), asking)
    file.go.set()
    session = file.begin()
    await read(session)
    file.put(WITHOUT)
    with pytest.raises(Conflict, match="not declared any more"):
        await file.agents.decide(session.run.id, CALLER, approved=True)
    # of the two calls that were approved, one has no tool any more
    file.put(AgentsConfig(agents={"a": declared("wait", approval=["wait"])}))
    rest = await file.agents.decide(session.run.id, CALLER, approved=True)
    await read(rest)
    results = {step["tool"]: (step["failed"], step["result"]) for step in rest.run.steps if step["kind"] == "tool"}
    assert (rest.run.status, results["wait"]) == ("done", (False, "waited"))
    assert results["clock"][0]


def test_where_no_agents_are_declared_a_name_is_answered_with_how_to_declare_one() -> None:
    with pytest.raises(NotFound, match="AGENTS_CONFIG") as none:
        Roster(AgentsConfig(), {}).agent("calculator")
    assert none.value.details == {"available": []}
    with pytest.raises(NotFound, match="No agent is named calculator") as others:
        Roster(WITHOUT, {}).agent("calculator")
    assert others.value.details == {"available": ["b"]}


async def test_where_there_is_no_file_there_is_nothing_to_reload() -> None:
    agents = Agents(Roster(WITHOUT, {tool.name: tool for tool in OWN}), ScriptedModel(saying("x")), MemoryRuns())
    assert not agents.reload()


@pytest.mark.long
async def test_the_end_of_the_service_closes_servers_of_old_files_too(files: Files) -> None:
    file = files(WITH_SERVER, ADDING)
    running = asyncio.create_task(read(file.begin()))
    await file.waiting.wait()
    old = file.server()
    file.put(WITHOUT)
    await file.agents.aclose()
    with pytest.raises(Conflict):
        await running
    await closed(old)
