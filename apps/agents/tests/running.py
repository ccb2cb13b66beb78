"""Agents over a scripted model, run to their end in this process."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from apps.agents.agents import Agents
from apps.agents.builtin_tools import calculator, clock
from apps.agents.config import AgentConfig, AgentsConfig, LimitsConfig, ToolConfig
from apps.agents.progress import Event, RunEnded, TextDelta, ToolCalled, ToolReturned
from apps.agents.roster import Roster
from apps.agents.session import RunSession
from apps.agents.tools import AgentTool, function_tool
from apps.core.agent_runs import AgentRun, MemoryRuns, RunStore
from apps.core.callers import Caller
from apps.core.messages import user_message
from apps.core.ports import ChatModel
from apps.models.scripted import Script, ScriptedModel

CALLER = Caller("tenant", key_id="key")
OWN = (function_tool(calculator), function_tool(clock))


def declared(*tools: str, approval: Sequence[str] = (), limits: LimitsConfig | None = None, **more: Any) -> AgentConfig:
    named = tuple(ToolConfig(tool=tool, approval=tool in approval) for tool in tools)
    return AgentConfig(tools=named, limits=limits or LimitsConfig(), **more)


def agents_of(
    model: ChatModel,
    agent: AgentConfig,
    *tools: AgentTool,
    store: RunStore | None = None,
    redact: Callable[[str], str] = str,
) -> Agents:
    """One agent, named ``a``."""
    known = {tool.name: tool for tool in (*OWN, *tools)}
    roster = Roster(AgentsConfig(agents={"a": agent}), known, redact=redact)
    return Agents(roster, model, store or MemoryRuns())


@dataclass(slots=True)
class Ran:
    """A run that was read to its end."""

    session: RunSession
    events: list[Event]
    model: ScriptedModel

    @property
    def run(self) -> AgentRun:
        return self.session.run

    @property
    def end(self) -> RunEnded:
        assert isinstance(self.events[-1], RunEnded)
        return self.events[-1]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def called(self) -> list[ToolCalled]:
        return [event for event in self.events if isinstance(event, ToolCalled)]

    @property
    def results(self) -> list[ToolReturned]:
        return [event for event in self.events if isinstance(event, ToolReturned)]


async def read(session: RunSession) -> list[Event]:
    async with aclosing(session.events()) as events:
        return [event async for event in events]


async def ran(script: Script, agent: AgentConfig, *tools: AgentTool, prompt: str = "hi", **more: Any) -> Ran:
    model = ScriptedModel(script)
    session = agents_of(model, agent, *tools, **more).begin("a", CALLER, user_message(prompt))
    return Ran(session, await read(session), model)
