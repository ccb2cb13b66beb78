"""The MCP servers of one file: those that the operator has configured.

A reload makes a new set, which takes over the servers that stay as they are.
"""

import asyncio
import os
from collections.abc import Callable, Mapping

from apps.agents.config import McpServerConfig
from apps.agents.mcp_connection import McpServer
from apps.agents.tools import AgentTool

Lookup = Callable[[str], str]


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
