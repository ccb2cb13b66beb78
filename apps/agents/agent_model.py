"""The agents as one ChatModel: `agent/<name>` answers wherever a model's name is taken."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from apps.agents.agents import Agents
from apps.agents.config import AGENT_PREFIX, Overrides
from apps.agents.progress import RunEnded, TextDelta
from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.errors import Conflict, InvalidValue, NotFound
from apps.core.messages import ChatRequest, Message
from apps.core.ports import Readiness


class AgentModel:
    """Implements ChatModel. The agent's own tools, limits and settings count, and not the request's."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        name = (request.model or "").removeprefix(AGENT_PREFIX)
        try:
            messages = [_as_text(message) for message in request.messages]
            session = self._agents.begin(name, request.caller, messages, _overrides(request))
        except NotFound as error:
            raise NotFound(error.message, field="model", details=error.details) from None
        _refuse_what_agents_decide(request)
        async with aclosing(session.events()) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    yield Delta(event.text, model=session.run.model or AGENT_PREFIX + name)
                elif isinstance(event, RunEnded):
                    if event.finish_reason == "approval_required":
                        # no caller on this path can decide, so the run is cancelled
                        await self._agents.cancel(session.run.id, request.caller)
                        raise Conflict(
                            "A tool of this agent needs an approval: use POST /agents/{name}/run",
                            details={"run": session.run.id},
                        )
                    run = session.run
                    usage = Usage(run.prompt_tokens, run.completion_tokens, run.cached_tokens, run.cost)
                    yield Delta(
                        finish_reason=event.finish_reason, usage=usage, model=event.model or AGENT_PREFIX + name
                    )

    def dearest(self, model: str) -> tuple[float, float] | None:
        """Implements AsksOthers: a run asks the agent's own model, as often as its steps allow."""
        return self._agents.dearest(model.removeprefix(AGENT_PREFIX))

    def readiness(self) -> Readiness:
        names = self._agents.names()
        if not names:
            return Readiness("agents", "not_configured", "AGENTS_CONFIG declares none")
        return Readiness("agents", "ready", f"{len(names)} agents")

    async def start(self) -> None:
        """The agents are started by their makers."""

    async def aclose(self) -> None:
        """The agents are closed by their makers."""


def _refuse_what_agents_decide(request: ChatRequest) -> None:
    if request.tools:
        raise InvalidValue("An agent has its own tools", field="tools")
    if request.response_format is not None and request.response_format.get("type") != "text":
        raise InvalidValue("An agent has its own output schema", field="response_format")


def _overrides(request: ChatRequest) -> Overrides:
    return Overrides(request.temperature, request.top_p, request.max_tokens, request.seed, request.stop)


def _as_text(message: Message) -> Message:
    """Text parts, joined; other parts are refused where the conversation is checked."""
    if isinstance(message.content, str) or not all(part.get("type") == "text" for part in message.content):
        return message
    return Message(message.role, "".join(str(part.get("text", "")) for part in message.content))
