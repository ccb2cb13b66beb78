"""One MCP server and the tools on its allow-list.

It is connected to when a run first needs it. One that is dead, or hangs, is an error within a bound; the next run tries
again. The mcp package is imported with the first server (mcp_client.py).
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apps.agents.config import McpServerConfig
from apps.agents.mcp_port import McpRefusal
from apps.agents.tools import AgentTool, Arguments, ToolContext, ToolError
from apps.core.errors import ModelUnavailable
from apps.core.process import import_aside

if TYPE_CHECKING:
    from apps.agents.mcp_client import ListedTool, McpSession

    OpenSession = Callable[[McpServerConfig, Mapping[str, str], AsyncExitStack], Awaitable[McpSession]]

CLOSE_SECONDS = 7.0
RETRY_SECONDS = 3.0
LONGEST_DESCRIPTION = 1_000
NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")

log = logging.getLogger(__name__)


class _SessionForgotten(Exception):
    """The server does not know the session that a call was made in."""


@dataclass(slots=True)
class _Connection:
    """A session that one task, the holder, opens and closes: the mcp package wants both in the same task."""

    session: "McpSession"
    tools: dict[str, AgentTool]
    holder: asyncio.Task[None]
    closing: asyncio.Event
    calls: int = 0
    retired: bool = False
    """No call begins in it any more; it is closed with the end of its last one."""


@dataclass(slots=True)
class McpServer:
    name: str
    config: McpServerConfig
    values: Mapping[str, str] = field(repr=False)
    """Of the variables that the configuration names."""
    holders: int = 0
    _closing: asyncio.Task[None] | None = None
    _connection: _Connection | None = None
    _holders: dict[asyncio.Task[None], asyncio.Event] = field(default_factory=dict)
    """Those that run, each with what makes it close its session."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _failure: ModelUnavailable | None = None
    _failed_at: float = 0.0

    async def tools(self, wanted: str) -> list[AgentTool]:
        connection = await self._connected()
        if wanted == "*":
            return [connection.tools[tool] for tool in self.config.tools if tool in connection.tools]
        if wanted not in connection.tools:
            raise self._unavailable(f"has no tool {wanted}")
        return [connection.tools[wanted]]

    async def call(self, tool: str, arguments: Arguments) -> str:
        """What the tool answers, as text. Raises ToolError.

        A server that has forgotten the session has done nothing: it is initialised anew, once, and asked again.
        """
        for last in (False, True):
            try:
                connection = await self._connected()
            except ModelUnavailable as error:
                raise ToolError(error.message) from None
            try:
                text, failed = await self._called(connection, tool, arguments)
            except _SessionForgotten:
                if last:
                    raise ToolError(f"The MCP server {self.name} forgets its sessions at once") from None
                continue
            if failed:
                raise ToolError(text or "The tool failed")
            return text
        raise AssertionError("the second attempt returns or raises")

    async def _called(self, connection: _Connection, tool: str, arguments: Arguments) -> tuple[str, bool]:
        """Raises ToolError, and _SessionForgotten where the call has not been looked at."""
        connection.calls += 1
        try:
            async with asyncio.timeout(self.config.call_seconds):
                return await connection.session.call(tool, arguments)
        except TimeoutError:
            if connection.calls == 1:
                self._drop(connection)
            raise ToolError(f"The MCP server {self.name} did not answer in {self.config.call_seconds:g} s") from None
        except McpRefusal as error:
            if error.forgotten:
                # other calls in it may be at work: they began before it was forgotten
                self._retire(connection)
                raise _SessionForgotten from None
            if connection.holder.done() or error.closed:
                self._drop(connection)
            raise ToolError(f"The MCP server {self.name} refused: {str(error)[:500]}") from None
        except Exception as error:
            self._drop(connection)
            raise ToolError(f"The MCP server {self.name} failed ({type(error).__name__})") from None
        finally:
            connection.calls -= 1
            if connection.retired and not connection.calls:
                connection.closing.set()

    @property
    def closing(self) -> bool:
        return self._closing is not None and not self._closing.done()

    def release(self) -> None:
        """The last one has it closed; where it is needed once more after all, it is connected to anew."""
        self.holders -= 1
        if self.holders == 0 and any(not holder.done() for holder in self._holders):
            self._closing = asyncio.create_task(self.aclose(), name=f"mcp-{self.name}-closing")

    async def aclose(self) -> None:
        holders, self._connection = dict(self._holders), None
        for closing in holders.values():
            closing.set()
        if holders:
            _, running = await asyncio.wait(holders, timeout=CLOSE_SECONDS)
            for task in running:
                task.cancel()

    async def _connected(self) -> _Connection:
        """Raises ModelUnavailable within the bound, at once where it has just failed."""
        # outside of the bound: a first import is not the server's time
        open_session = await import_aside(load_client)
        async with self._turn:
            if self._failure is not None and time.monotonic() - self._failed_at < RETRY_SECONDS:
                raise self._failure
            if self._connection is not None and not self._connection.holder.done():
                return self._connection
            ready: asyncio.Future[_Connection] = asyncio.get_running_loop().create_future()
            closing = asyncio.Event()
            holder = asyncio.create_task(self._hold(ready, closing, open_session), name=f"mcp-{self.name}")
            self._holders[holder] = closing
            holder.add_done_callback(self._holders.pop)
            try:
                async with asyncio.timeout(self.config.connect_seconds):
                    self._connection = await asyncio.shield(ready)
            except TimeoutError:
                holder.cancel()
                ready.cancel()
                words = f"did not answer within {self.config.connect_seconds:g} seconds"
                raise self._failed(self._unavailable(words)) from None
            except ModelUnavailable as error:
                raise self._failed(error) from None
            except BaseException:
                holder.cancel()
                raise
            self._failure = None
            return self._connection

    def _failed(self, error: ModelUnavailable) -> ModelUnavailable:
        """Remember it for those who wait for the same server: one after the other, they would wait for ever."""
        self._failure, self._failed_at = error, time.monotonic()
        return error

    async def _hold(
        self, ready: "asyncio.Future[_Connection]", closing: asyncio.Event, open_session: "OpenSession"
    ) -> None:
        """Open the session, and close it when it is asked to; a failure is raised to the waiting callers."""
        try:
            async with AsyncExitStack() as stack:
                session = await open_session(self.config, self.values, stack)
                tools = {tool.name: self._tool(tool) for tool in await session.tools(self.config.tools)}
                holder = asyncio.current_task()
                assert holder is not None  # noqa: S101 - for the type checker: a coroutine runs in a task
                if not ready.cancelled():
                    ready.set_result(_Connection(session, tools, holder, closing))
                await closing.wait()
        except Exception as error:
            log.warning("The MCP server %s failed: %s", self.name, _named(error))
            if not ready.done():
                ready.set_exception(self._unavailable(f"cannot be reached ({_named(error)})"))

    def _tool(self, tool: "ListedTool") -> AgentTool:
        async def invoke(context: ToolContext, arguments: Arguments) -> str:
            if faults := tool.checks.faults(arguments):
                raise ToolError(f"Wrong arguments: {'; '.join(faults)}")
            return await self.call(tool.name, arguments)

        shown = NOT_IN_A_NAME.sub("_", f"{self.name}_{tool.name}")[:64]
        return AgentTool(shown, tool.description[:LONGEST_DESCRIPTION], tool.schema, invoke)

    def _retire(self, connection: _Connection) -> None:
        connection.retired = True
        if self._connection is connection:
            self._connection = None

    def _drop(self, connection: _Connection) -> None:
        connection.closing.set()
        if self._connection is connection:
            self._connection = None

    def _unavailable(self, what: str) -> ModelUnavailable:
        return ModelUnavailable(
            f"The MCP server {self.name} {what}", details={"mcp_server": self.name}, retry_after=RETRY_SECONDS
        )


def load_client() -> "OpenSession":
    from apps.agents.mcp_client import open_session

    return open_session


def _named(error: BaseException) -> str:
    """The kind of the error that is behind it all: anyio wraps it into groups, and its words may hold a secret."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
