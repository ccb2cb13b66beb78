"""The agents of one checked file at work, with their tools, loops and MCP servers. A reload makes a new roster.

The new set of MCP servers takes over those that stay as they are.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.agents.config import AgentConfig, AgentsConfig, McpServerConfig
from apps.agents.mcp_connection import McpServer
from apps.agents.tools import AgentTool
from apps.core.errors import NotFound, quoted
from apps.core.process import import_aside

if TYPE_CHECKING:
    from apps.agents.loop import AgentLoop

Lookup = Callable[[str], str]
NO_AGENTS = "No agents are declared: start the service with AGENTS_CONFIG (infra/agents.example.yaml is a sample)"


def environment(variable: str) -> str:
    return os.environ.get(variable, "")


class McpServers:
    """All of one file. ``lookup`` reads the variables that the configuration names.

    Those of ``before`` that are declared in the same way, with the same values of their variables, are taken over with
    their connections. A server that no file holds any more is closed.
    """

    def __init__(
        self,
        configs: Mapping[str, McpServerConfig],
        lookup: Lookup = environment,
        before: "McpServers | None" = None,
    ) -> None:
        known = before._servers if before is not None else {}
        self._servers: dict[str, McpServer] = {}
        for name, config in configs.items():
            values = _values(config, lookup)
            same = known.get(name)
            if same is None or (same.config, same.values) != (config, values):
                same = McpServer(name, config, values)
            self._servers[name] = same

    async def tools(self, server: str, tool: str) -> list[AgentTool]:
        """One tool of a server, or with ``*`` all that its allow-list has. Raises ModelUnavailable."""
        return await self._servers[server].tools(tool)

    def hold(self) -> None:
        for server in self._servers.values():
            server.holders += 1

    def release(self) -> None:
        for server in self._servers.values():
            server.release()

    @property
    def closing(self) -> bool:
        return any(server.closing for server in self._servers.values())

    async def aclose(self) -> None:
        await asyncio.gather(*(server.aclose() for server in self._servers.values()))


def _values(config: McpServerConfig, lookup: Lookup) -> dict[str, str]:
    return {variable: lookup(variable) for variable in (*config.env, *config.headers_env.values())}


@dataclass(frozen=True, slots=True)
class ToolCard:
    """What callers see of a tool."""

    name: str
    description: str
    approval: bool


@dataclass(frozen=True, slots=True)
class AgentCard:
    """What callers see of an agent."""

    name: str
    config: AgentConfig
    tools: tuple[ToolCard, ...]


class Roster:
    """``tools`` are those that need no server; ``redact`` knows the secrets that the file's variables hold.

    A user calls `enter` and, when it is done, `leave`: the roster in force, and each run until its end. A
    server of tools without users is closed.
    """

    def __init__(
        self,
        config: AgentsConfig,
        tools: Mapping[str, AgentTool],
        servers: McpServers | None = None,
        redact: Callable[[str], str] = str,
    ) -> None:
        self.config = config
        self.servers = servers or McpServers(config.mcp_servers)
        self.redact = redact
        self._tools = dict(tools)
        self._loops: dict[str, AgentLoop] = {}
        self._users = 0

    def names(self) -> list[str]:
        return list(self.config.agents)

    def agent(self, name: str) -> AgentConfig:
        """Raises NotFound."""
        agent = self.config.agents.get(name)
        if agent is None and not self.config.agents:
            raise NotFound(NO_AGENTS, field="name", details={"available": []})
        if agent is None:
            raise NotFound(f"No agent is named {quoted(name)}", field="name", details={"available": self.names()})
        return agent

    def card(self, name: str) -> AgentCard:
        """Raises NotFound."""
        agent = self.agent(name)
        return AgentCard(name, agent, tuple(self._tool_card(t.tool, approval=t.approval) for t in agent.tools))

    async def loop(self, name: str) -> "AgentLoop":
        """Raises NotFound."""
        make_loop = await import_aside(load_loop)
        loop = self._loops.get(name)
        if loop is None:
            loop = self._loops[name] = make_loop(name, self.agent(name))
        return loop

    async def tools_of(self, agent: AgentConfig) -> list[AgentTool]:
        """Raises ModelUnavailable where a server of tools does not answer."""
        tools: list[AgentTool] = []
        for wanted in agent.tools:
            if wanted.tool in self._tools:
                offered = [self._tools[wanted.tool]]
            else:
                server, _, name = wanted.tool.partition("/")
                offered = await self.servers.tools(server, name)
            tools += [tool.narrowed(approval=wanted.approval, collections=wanted.collections) for tool in offered]
        return tools

    def enter(self) -> None:
        self._users += 1
        self.servers.hold()

    def leave(self) -> None:
        self._users -= 1
        self.servers.release()

    @property
    def in_use(self) -> bool:
        return self._users > 0 or self.servers.closing

    def _tool_card(self, name: str, *, approval: bool) -> ToolCard:
        tool = self._tools.get(name)
        return ToolCard(name, tool.description if tool else "A tool of an MCP server", approval)


def load_loop() -> "type[AgentLoop]":
    """With pydantic-ai half a second, which the first run need not wait for."""
    from apps.agents.loop import AgentLoop

    return AgentLoop
