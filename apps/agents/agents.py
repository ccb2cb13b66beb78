"""The agents of this service: who they are, and their runs, from the call to the end. What the API asks.

Everything belongs to a tenant: of another's runs nobody can tell whether they exist. Errors are those of
``apps.core.errors`` and nothing else.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from apps.agents.config import AgentConfig, AgentsConfig, Overrides
from apps.agents.events import Emit, RunEnded
from apps.agents.mcp_servers import McpServers
from apps.agents.progress import Progress
from apps.agents.session import RunSession
from apps.agents.tools import AgentTool
from apps.core.agent_runs import AgentRun, RunStore
from apps.core.callers import Caller
from apps.core.errors import AppError, Conflict, InternalError, InvalidValue, NotFound
from apps.core.messages import Message
from apps.core.ports import ChatModel
from apps.core.quoting import quoted

if TYPE_CHECKING:
    from apps.agents.loop import Conversation, Decision, Loop

# a run that is still `running` so long after its bound has lost its process
SLACK_SECONDS = 60.0
KEPT_SECONDS = 30 * 24 * 3600.0
MILLION = 1_000_000
SECONDS_BETWEEN_CLEANINGS = 6 * 3600.0

Price = Callable[[str | None], tuple[float, float] | None]
log = logging.getLogger(__name__)
_inside: ContextVar[bool] = ContextVar("inside_an_agent", default=False)


@dataclass(frozen=True, slots=True)
class ToolCard:
    """What callers are told of a tool."""

    name: str
    description: str
    approval: bool


@dataclass(frozen=True, slots=True)
class AgentCard:
    """What callers are told of an agent."""

    name: str
    config: AgentConfig
    tools: tuple[ToolCard, ...]


class Agents:
    """``chat`` is asked by the names that the declarations use; ``tools`` are those that need no server.

    ``price`` tells of those names what a million tokens of prompt and of answer cost; None where it is not known.
    """

    def __init__(
        self,
        config: AgentsConfig,
        chat: ChatModel,
        tools: Mapping[str, AgentTool],
        store: RunStore,
        servers: McpServers | None = None,
        redact: Callable[[str], str] = str,
        price: Price = lambda _: (0.0, 0.0),
    ) -> None:
        self._price = price
        self._config = config
        self._chat = chat
        self._tools = dict(tools)
        self._store = store
        self._servers = servers or McpServers(config.mcp_servers)
        self._redact = redact
        self._loops: dict[str, Loop] = {}
        self._sessions: dict[str, RunSession] = {}
        self._asked_for_price: set[str] = set()
        self._cleaning: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Have the loop imported before the first run needs it, and old runs forgotten; returns at once."""
        if self._config.agents:
            self._cleaning = asyncio.create_task(self._keep_clean())

    async def aclose(self) -> None:
        """End what runs, and the servers of tools."""
        if self._cleaning is not None:
            self._cleaning.cancel()
        for session in list(self._sessions.values()):
            session.cancel()
        await self._servers.aclose()

    def names(self) -> list[str]:
        return list(self._config.agents)

    def card(self, name: str) -> AgentCard:
        """Raises NotFound."""
        agent = self.agent(name)
        return AgentCard(name, agent, tuple(self._tool_card(t.tool, approval=t.approval) for t in agent.tools))

    def agent(self, name: str) -> AgentConfig:
        """Raises NotFound."""
        agent = self._config.agents.get(name)
        if agent is None:
            raise NotFound(f"No agent is named {quoted(name)}", field="name", details={"available": self.names()})
        return agent

    def dearest(self, name: str) -> tuple[float, float] | None:
        """US dollars for a million tokens, as often as a run may ask its model; None where the price is not known."""
        agent = self._config.agents.get(name)
        if agent is None or _inside.get():
            return 0.0, 0.0  # it will be refused
        if name in self._asked_for_price:
            return 0.0, 0.0  # its model leads back to it, which is refused too
        self._asked_for_price.add(name)
        try:
            price = self._price(agent.model)
        finally:
            self._asked_for_price.discard(name)
        return None if price is None else (price[0] * agent.limits.steps, price[1] * agent.limits.steps)

    def most_cost(self, name: str, prompt_tokens: int) -> float | None:
        """US dollars that a run is expected to cost at most; None where a price is not known."""
        agent, price = self.agent(name), self.dearest(name)
        if price is None:
            return None
        limits = agent.limits
        asked = (prompt_tokens * price[0] + limits.answer_tokens * price[1]) / MILLION
        spent = limits.tokens * max(price) / limits.steps / MILLION
        return min(asked, spent, limits.cost if limits.cost is not None else asked)

    def begin(
        self, name: str, caller: Caller, messages: Sequence[Message], overrides: Overrides | None = None
    ) -> RunSession:
        """A new run of an agent; nothing happens before its events are read. Raises NotFound and InvalidValue."""
        agent = self.agent(name)
        check_messages(messages)
        if _inside.get():
            raise InvalidValue("An agent cannot be an agent's model", field="model")
        run = AgentRun(caller.tenant, caller.key_id, name, self._ends_by(agent))
        progress = Progress(run, agent.limits, self._redact)

        async def work(emit: Emit) -> RunEnded:
            from apps.agents.loop import Conversation, history_of

            conversation = Conversation(history_of(agent.instructions, messages), overrides or Overrides())
            return await self._work(agent, caller, progress, emit, conversation, None)

        return RunSession(progress, self._store, work, self._sessions, is_new=True)

    async def decide(self, run_id: str, caller: Caller, *, approved: bool, reason: str = "") -> RunSession:
        """Go on with a paused run. Raises NotFound; Conflict where it does not wait (any more)."""
        run = await self.run(run_id, caller)
        agent = self._config.agents.get(run.agent)
        if agent is None:
            raise Conflict(f"The agent {run.agent} is not declared any more", details={"run": run_id})
        ends_by = self._ends_by(agent)
        if not await self._store.change(caller.tenant, run_id, "paused", "running", ends_by):
            raise Conflict("The run does not wait for an approval", details={"run": run_id, "status": run.status})
        run = replace(run, status="running", ends_by=ends_by)
        state, run.state = run.state, ""
        progress = Progress(run, agent.limits, self._redact)
        progress.decided(caller.key_id, reason, approved=approved)

        async def work(emit: Emit) -> RunEnded:
            from apps.agents.loop import Conversation, Decision

            decision = Decision(approved, reason)
            return await self._work(agent, caller, progress, emit, Conversation.read(state), decision)

        return RunSession(progress, self._store, work, self._sessions, is_new=False)

    async def run(self, run_id: str, caller: Caller) -> AgentRun:
        """The record of a run. Raises NotFound, also for another tenant's."""
        session = self._sessions.get(run_id)
        if session is not None and session.run.tenant == caller.tenant:
            return session.run
        run = await self._store.get(caller.tenant, run_id)
        if run is None:
            raise NotFound("No run has this id", field="id")
        if run.status == "running" and run.ends_by < time.time():
            run.status, run.outcome = "failed", InternalError.code
            run.error = InternalError("The process of the run ended before it did").envelope()["error"]
        return run

    async def cancel(self, run_id: str, caller: Caller) -> AgentRun:
        """End a run that is under way or waits, wherever it runs. Raises NotFound; Conflict where it has ended."""
        run = await self.run(run_id, caller)
        store, tenant = self._store, caller.tenant
        if run.status != "cancelled" and not (
            await store.change(tenant, run_id, "running", "cancelled", run.ends_by)
            or await store.change(tenant, run_id, "paused", "cancelled", run.ends_by)
        ):
            raise Conflict("The run has ended already", details={"run": run_id, "status": run.status})
        session = self._sessions.get(run_id)
        if session is not None:
            session.cancel()
        return replace(run, status="cancelled")

    async def _work(
        self,
        agent: AgentConfig,
        caller: Caller,
        progress: Progress,
        emit: Emit,
        conversation: "Conversation",
        decision: "Decision | None",
    ) -> RunEnded:
        from apps.agents.loop import make_loop, run_loop

        _inside.set(True)
        name = progress.run.agent
        loop = self._loops.get(name)
        if loop is None:
            loop = self._loops[name] = make_loop(name, agent)
        tools = [tool for tool in await self._tools_of(agent) if tool.allowed_for(caller)]
        progress.still_wanted = self._still_wanted
        return await run_loop(loop, agent, tools, self._chat, caller, progress, emit, conversation, decision)

    async def _still_wanted(self, run_id: str) -> bool:
        try:
            return await self._store.is_running(run_id)
        except AppError as error:
            log.warning("Nobody knows whether the run %s is still wanted: %s", run_id, error.message)
            return True

    async def _tools_of(self, agent: AgentConfig) -> list[AgentTool]:
        """Raises ModelUnavailable where a server of tools does not answer."""
        tools: list[AgentTool] = []
        for wanted in agent.tools:
            if wanted.tool in self._tools:
                offered = [self._tools[wanted.tool]]
            else:
                server, _, name = wanted.tool.partition("/")
                offered = await self._servers.tools(server, name)
            tools += [tool.narrowed(approval=wanted.approval, collections=wanted.collections) for tool in offered]
        return tools

    def _tool_card(self, name: str, *, approval: bool) -> ToolCard:
        tool = self._tools.get(name)
        return ToolCard(name, tool.description if tool else "A tool of an MCP server", approval)

    def _ends_by(self, agent: AgentConfig) -> float:
        return time.time() + agent.limits.seconds + SLACK_SECONDS

    async def _keep_clean(self) -> None:
        await asyncio.to_thread(_import_loop)
        while True:
            try:
                await self._store.forget(time.time() - KEPT_SECONDS)
            except AppError as error:
                log.warning("Old runs of agents could not be deleted: %s", error.message)
            await asyncio.sleep(SECONDS_BETWEEN_CLEANINGS)


def check_messages(messages: Sequence[Message]) -> None:
    """Raise InvalidValue for a conversation that an agent cannot answer."""
    if not any(message.role == "user" for message in messages) or messages[-1].role != "user":
        raise InvalidValue("The conversation must end with a message of the user", field="messages")
    for i, message in enumerate(messages):
        if message.role == "tool" or message.tool_calls:
            raise InvalidValue("An agent calls its own tools; results of others are not taken", field=f"messages.{i}")
        if not isinstance(message.content, str):
            raise InvalidValue("An agent takes text only", field=f"messages.{i}.content")


def _import_loop() -> None:
    import apps.agents.loop  # noqa: F401 - half a second that the first run need not wait for
