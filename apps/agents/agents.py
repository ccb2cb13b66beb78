"""The agents of this service: who they are, and their runs, from the call to the end. What the API asks.

Everything belongs to a tenant: whether another tenant's runs exist cannot be seen. Errors are those of
``apps.core.errors`` and nothing else. As one ChatModel, `agent/<name>` answers wherever a model's name is taken.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING

from apps.agents.config import AGENT_PREFIX, AgentConfig, Overrides
from apps.agents.progress import Emit, Progress, RunEnded, TextDelta, Verdict, Verdicts, all_of, decided, undecided
from apps.agents.roster import AgentCard, Roster, load_loop
from apps.agents.session import RunSession, check_messages
from apps.core.agent_runs import AgentRun, RetriedRuns, RunStore
from apps.core.callers import Caller
from apps.core.calls import SHUT_DOWN, Usage
from apps.core.deltas import Delta
from apps.core.errors import AppError, Conflict, InternalError, InvalidValue, NotFound
from apps.core.messages import ChatRequest, Message
from apps.core.ports import ChatModel, Readiness
from apps.core.process import import_aside

if TYPE_CHECKING:
    from apps.agents.loop import AgentLoop, Conversation

# a run that is still `running` so long after its bound has lost its process
SLACK_SECONDS = 60.0
KEPT_SECONDS = 30 * 24 * 3600.0
MILLION = 1_000_000
MOST_TRIES = 100
SECONDS_BETWEEN_CLEANINGS = 6 * 3600.0

Price = Callable[[str | None], tuple[float, float] | None]
log = logging.getLogger(__name__)
_inside: ContextVar[bool] = ContextVar("inside_an_agent", default=False)


class Agents:
    """``chat`` is asked by the names that the declarations use.

    ``price`` tells of those names what a million tokens of prompt and of answer cost; None where it is not known.
    ``read`` makes the roster that follows the one in force, or raises AgentsConfigError; None: there is no file.
    """

    def __init__(
        self,
        roster: Roster,
        chat: ChatModel,
        store: RunStore,
        price: Price = lambda _: (0.0, 0.0),
        read: Callable[[Roster], Roster] | None = None,
    ) -> None:
        self.roster = roster
        roster.enter()
        self._rosters = [roster]
        self._read = read
        self._price = price
        self._chat = chat
        self._store = RetriedRuns(store)
        self._sessions: dict[str, RunSession] = {}
        self._pricing: set[str] = set()
        self._cleaning: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Have the loop imported before the first run needs it, and old runs forgotten; returns at once."""
        if self.roster.names() and self._cleaning is None:
            self._cleaning = asyncio.create_task(self._keep_clean())

    def reload(self) -> bool:
        """Read the file again, all or nothing; runs under way end with the agents and servers they began with.

        False where there is no file. Raises AgentsConfigError, and then nothing has changed.
        """
        if self._read is None:
            return False
        before, self.roster = self.roster, self._read(self.roster)
        # in this order: a server that both have is held all the time
        self.roster.enter()
        before.leave()
        self._rosters = [roster for roster in self._rosters if roster.in_use] + [self.roster]
        if self.roster.names() and self._cleaning is None:
            self._cleaning = asyncio.create_task(self._keep_clean())
        return True

    async def aclose(self) -> None:
        """End what runs, and the servers of tools."""
        if self._cleaning is not None:
            self._cleaning.cancel()
        for session in list(self._sessions.values()):
            session.cancel(SHUT_DOWN)
        await asyncio.gather(*(roster.servers.aclose() for roster in self._rosters))
        await self._store.aclose()

    def names(self) -> list[str]:
        return self.roster.names()

    def card(self, name: str) -> AgentCard:
        """Raises NotFound."""
        return self.roster.card(name)

    def dearest(self, name: str) -> tuple[float, float] | None:
        """US dollars for a million tokens, as often as a run may ask its model; None where the price is not known."""
        agent = self.roster.config.agents.get(name)
        if agent is None or _inside.get():
            return 0.0, 0.0  # it will be refused
        if name in self._pricing:
            return 0.0, 0.0  # its model leads back to it, which is refused too
        self._pricing.add(name)
        try:
            price = self._price(agent.model)
        finally:
            self._pricing.discard(name)
        return None if price is None else (price[0] * agent.limits.steps, price[1] * agent.limits.steps)

    def most_cost(self, name: str, prompt_tokens: int) -> float | None:
        """US dollars that a run is expected to cost at most; None where a price is not known."""
        agent, price = self.roster.agent(name), self.dearest(name)
        if price is None:
            return None
        limits = agent.limits
        requested = (prompt_tokens * price[0] + limits.answer_tokens * price[1]) / MILLION
        spent = limits.tokens * max(price) / limits.steps / MILLION
        return min(requested, spent, limits.cost if limits.cost is not None else requested)

    def begin(
        self, name: str, caller: Caller, messages: Sequence[Message], overrides: Overrides | None = None
    ) -> RunSession:
        """A new run of an agent; nothing happens before its events are read. Raises NotFound and InvalidValue."""
        roster = self.roster
        agent = roster.agent(name)
        check_messages(messages)
        if _inside.get():
            raise InvalidValue("An agent cannot be an agent's model", field="model")
        run = AgentRun(caller.tenant, caller.key_id, name, self._ends_by(agent))
        progress = Progress(run, agent.limits, roster.redact)

        async def work(emit: Emit) -> RunEnded:
            loop = await roster.loop(name)
            conversation = loop.begin(messages, overrides or Overrides())
            return await self._work(roster, loop, caller, progress, emit, conversation)

        return RunSession(progress, self._store, work, self._sessions)

    async def decide(self, run_id: str, caller: Caller, *, approved: bool, reason: str = "") -> RunSession:
        """Decide all calls that a paused run waits with, and go on. Raises NotFound; Conflict where it does not wait.

        What came in between is a Conflict too, but of the events: the decision is made when they are read.
        """
        run = await self._kept(run_id, caller)
        verdict = Verdict(approved, self.roster.redact(reason))
        return self._going_on(run, caller, all_of(run, verdict, caller.key_id))

    async def decide_on(self, run_id: str, caller: Caller, decisions: Mapping[str, Verdict]) -> RunSession | AgentRun:
        """Decide some of the calls: the run itself, which waits on with the others, or with the last one its session.

        Raises NotFound; Conflict where the run does not wait, or a call is decided already: then none of these counts.
        """
        redact = self.roster.redact
        redacted = {id: Verdict(verdict.approved, redact(verdict.reason)) for id, verdict in decisions.items()}
        verdicts = Verdicts(redacted, caller.key_id)
        for _ in range(MOST_TRIES):
            run = await self._kept(run_id, caller)
            calls = decided(run, verdicts)
            if not undecided(calls):
                return self._going_on(run, caller, verdicts)
            if await self._store.decide(caller.tenant, run_id, run.pending, calls):
                run.pending = calls
                return run
        raise Conflict("Too many decide at the same time; try again", details={"run": run_id})

    def _going_on(self, run: AgentRun, caller: Caller, verdicts: Verdicts) -> RunSession:
        """A session whose beginning decides the last calls: who is refused before that has decided nothing."""
        roster = self.roster
        decided(run, verdicts)
        agent = roster.config.agents.get(run.agent)
        if agent is None:
            raise Conflict(f"The agent {run.agent} is not declared any more", details={"run": run.id})
        waited, ends_by = replace(run), self._ends_by(agent)
        run = replace(run, status="running", ends_by=ends_by, state="")
        progress = Progress(run, agent.limits, roster.redact)

        async def claim() -> None:
            current = waited
            for _ in range(MOST_TRIES):
                calls = decided(current, verdicts)
                if await self._store.decide(run.tenant, run.id, current.pending, calls, ends_by):
                    progress.decided(calls)
                    return
                current = await self._kept(run.id, caller)
            raise Conflict("Too many decide at the same time; try again", details={"run": run.id})

        async def work(emit: Emit) -> RunEnded:
            loop = await roster.loop(run.agent)
            return await self._work(roster, loop, caller, progress, emit, loop.resume(waited.state))

        return RunSession(progress, self._store, work, self._sessions, claim)

    async def run(self, run_id: str, caller: Caller) -> AgentRun:
        """The record of a run. Raises NotFound, also for another tenant's."""
        session = self._sessions.get(run_id)
        if session is not None and session.run.tenant == caller.tenant:
            return session.run
        run = await self._kept(run_id, caller)
        if run.status == "running" and run.ends_by < time.time():
            run.status, run.outcome = "failed", InternalError.code
            run.error = InternalError("The process of the run ended before it did").envelope()["error"]
        return run

    async def recent(self, caller: Caller, limit: int, before: float | None = None) -> list[AgentRun]:
        """The tenant's runs that began before then, the newest first."""
        kept = await self._store.recent(caller.tenant, limit, before)
        live = {session.run.id: session.run for session in self._sessions.values()}
        return [live.get(run.id, run) for run in kept]

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
        return await self._kept(run_id, caller)

    async def _work(
        self,
        roster: Roster,
        loop: "AgentLoop",
        caller: Caller,
        progress: Progress,
        emit: Emit,
        conversation: "Conversation",
    ) -> RunEnded:
        _inside.set(True)
        progress.still_wanted = self._still_wanted
        agent = roster.agent(progress.run.agent)
        roster.enter()
        try:
            tools = [tool for tool in await roster.tools_of(agent) if tool.allowed_for(caller)]
            return await loop.run(tools, self._chat, caller, progress, emit, conversation)
        finally:
            roster.leave()

    async def _kept(self, run_id: str, caller: Caller) -> AgentRun:
        """As it stands in the store. Raises NotFound."""
        run = await self._store.get(caller.tenant, run_id)
        if run is None:
            raise NotFound("No run has this id", field="id")
        return run

    async def _still_wanted(self, run_id: str) -> bool:
        try:
            return await self._store.is_running(run_id)
        except AppError as error:
            log.warning("It is not known whether the run %s was cancelled: %s", run_id, error.message)
            return True

    def _ends_by(self, agent: AgentConfig) -> float:
        return time.time() + agent.limits.seconds + SLACK_SECONDS

    async def _keep_clean(self) -> None:
        await import_aside(load_loop)
        while True:
            try:
                await self._store.forget(time.time() - KEPT_SECONDS)
            except AppError as error:
                log.warning("Old runs of agents could not be deleted: %s", error.message)
            await asyncio.sleep(SECONDS_BETWEEN_CLEANINGS)


# what would make another answer of it, and has no place in an agent's steps; samplers are the agent's own
NOT_PASSED_ON = {
    "top_logprobs": "logprobs",
    "answer_regex": "structured_outputs",
    "answer_choices": "structured_outputs",
    "answer_grammar": "structured_outputs",
    "continue_final_message": "continue_final_message",
    "documents": "documents",
    "template_arguments": "chat_template_kwargs",
}


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
        return Readiness("agents", "ready", "1 agent" if len(names) == 1 else f"{len(names)} agents")

    async def start(self) -> None:
        """The agents are started by their makers."""

    async def aclose(self) -> None:
        """The agents are closed by their makers."""


def _refuse_what_agents_decide(request: ChatRequest) -> None:
    if request.tools:
        raise InvalidValue("An agent has its own tools", field="tools")
    if request.response_format is not None and request.response_format.get("type") != "text":
        raise InvalidValue("An agent has its own output schema", field="response_format")
    for name, field in NOT_PASSED_ON.items():
        value = getattr(request, name)
        # 0 asks for log probabilities
        if value is not None and value is not False and value != ():
            raise InvalidValue(f"An agent cannot honour {field}", field=field)


def _overrides(request: ChatRequest) -> Overrides:
    return Overrides(request.temperature, request.top_p, request.max_tokens, request.seed, request.stop)


def _as_text(message: Message) -> Message:
    """Text parts, joined; other parts are refused where the conversation is checked."""
    if isinstance(message.content, str) or not all(part.get("type") == "text" for part in message.content):
        return message
    return Message(message.role, "".join(str(part.get("text", "")) for part in message.content))
