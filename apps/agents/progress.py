"""One run's account while it runs: what was done, used and decided so far, and whether it may go on. Knows no loop.

A decision about a call that a paused run waits with stands in the run's record beside that call, so that it outlives
the process; the run goes on with the last.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apps.agents.config import LimitsConfig
from apps.core.agent_runs import AgentRun
from apps.core.calls import ACCOUNT
from apps.core.deltas import Answer
from apps.core.errors import AppError, Conflict, InvalidValue, NotFound, Timeout
from apps.core.messages import read_json_text

Calls = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """About one call; the model gets ``reason`` where it is denied."""

    approved: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts by the calls' ids. ``on_the_rest``: they count for the calls that are still undecided, if only some."""

    by_call: Mapping[str, Verdict]
    key_id: str | None
    on_the_rest: bool = False


def undecided(calls: Iterable[dict[str, Any]]) -> Calls:
    return [call for call in calls if call.get("decision") is None]


def all_of(run: AgentRun, verdict: Verdict, key_id: str | None) -> Verdicts:
    """The same for every call that still waits."""
    return Verdicts({str(call["id"]): verdict for call in undecided(run.pending)}, key_id, on_the_rest=True)


def decided(run: AgentRun, verdicts: Verdicts) -> Calls:
    """The run's calls with these decisions as well.

    All or nothing: raises Conflict where the run does not wait or a call is decided already, NotFound for a call that
    the run never made.
    """
    if run.status != "paused":
        raise Conflict("The run does not wait for an approval", details={"run": run.id, "status": run.status})
    waiting = {str(call["id"]) for call in undecided(run.pending)}
    wanted = dict(verdicts.by_call)
    if verdicts.on_the_rest:
        wanted = {id: verdict for id, verdict in wanted.items() if id in waiting}
        if not wanted:
            raise Conflict("Every call has been decided already", details={"run": run.id})
    for place, id in enumerate(wanted):
        if id not in waiting:
            raise _not_waiting(run, id, place)
    return [
        {**call, "decision": _kept(wanted[str(call["id"])], verdicts.key_id)} if str(call["id"]) in wanted else call
        for call in run.pending
    ]


def by_call(decisions: Iterable[tuple[str, Verdict]]) -> dict[str, Verdict]:
    """Raises InvalidValue where nothing is decided, or the same call twice."""
    found: dict[str, Verdict] = {}
    for place, (id, verdict) in enumerate(decisions):
        if id in found:
            raise InvalidValue("The same call is decided twice", field=f"decisions.{place}.id")
        found[id] = verdict
    if not found:
        raise InvalidValue("At least one decision is required", field="decisions")
    return found


def verdicts_of(calls: Calls) -> dict[str, Verdict]:
    """What the loop is to make of the calls, once all are decided."""
    return {str(call["id"]): Verdict(call["decision"]["approved"], call["decision"]["reason"]) for call in calls}


def _kept(verdict: Verdict, key_id: str | None) -> dict[str, Any]:
    return {"approved": verdict.approved, "reason": verdict.reason, "key_id": key_id}


def _not_waiting(run: AgentRun, id: str, place: int) -> Conflict | NotFound:
    """An id is used once in a run, so one that is known and does not wait was decided, or needed no decision."""
    field, shown = f"decisions.{place}.id", id[:100]
    if any(step.get("id") == id for step in [*run.steps, *run.pending]):
        return Conflict("This call is decided already", field=field, details={"run": run.id, "call": shown})
    waiting = [call["id"] for call in undecided(run.pending)]
    return NotFound("No call of this run has this id", field=field, details={"run": run.id, "waiting": waiting})


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of what the model writes."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The model asks for a tool; ``arguments`` are as it wrote them: an object, or text that is none."""

    id: str
    tool: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """What the model gets of a call. ``failed``: there was no such tool, or it raised, or it was denied."""

    id: str
    tool: str
    result: str
    failed: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ApprovalRequired:
    """The run pauses until these calls are decided."""

    calls: tuple[ToolCalled, ...]


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of a run that did not fail. ``finish_reason`` is ``approval_required`` where it pauses."""

    finish_reason: str
    answer: str = ""
    model: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


Event = TextDelta | ToolCalled | ToolReturned | ApprovalRequired | RunEnded
Emit = Callable[[Event], Awaitable[None]]


LOOK_EVERY = 1.0
MODEL, TOOL, DECISION = "model", "tool", "decision"


class BoundReached(InvalidValue):
    """The run needs more than the agent's limits allow: trying again would not help."""


class Progress:
    """Writes into the run's record. ``redact`` takes the secrets of the service out of what is kept and emitted."""

    def __init__(self, run: AgentRun, limits: LimitsConfig, redact: Callable[[str], str]) -> None:
        self.run = run
        self.limits = limits
        self.redact = redact
        # asked before each further step: a run may be cancelled by way of another process
        self.still_wanted: Callable[[str], Awaitable[bool]] | None = None
        self.verdicts: dict[str, Verdict] = {}
        # what cuts the run off, one of CUT_OFF
        self.ended_by: str | None = None
        self._looked_at = time.monotonic()
        self._begun_with = len(run.steps)
        self._unanswered: dict[str, ToolCalled] = {str(step["id"]): _called(step) for step in run.pending}
        run.pending = []

    @property
    def steps(self) -> int:
        return sum(step["kind"] == MODEL for step in self.run.steps)

    @property
    def tool_rounds(self) -> int:
        """How many steps have called tools."""
        return sum(step["kind"] == MODEL and step["finish_reason"] == "tool_calls" for step in self.run.steps)

    @property
    def tokens(self) -> int:
        return self.run.prompt_tokens + self.run.completion_tokens

    def check(self) -> None:
        """Raise BoundReached where the model must not be asked again."""
        limits = self.limits
        if self.steps >= limits.steps:
            raise self._reached("steps", limits.steps, f"{limits.steps} steps")
        if self.tokens >= limits.tokens:
            raise self._reached("tokens", limits.tokens, f"{limits.tokens} tokens")
        if limits.cost is not None and (self.run.cost or 0.0) >= limits.cost and self.steps:
            raise self._reached("cost", limits.cost, f"{limits.cost:g} US dollars")

    async def check_wanted(self) -> None:
        """Raise Conflict where the run was cancelled; looks once a second at most."""
        now = time.monotonic()
        if self.still_wanted is None or now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        if not await self.still_wanted(self.run.id):
            self.run.status = "cancelled"
            raise Conflict("The run was cancelled", details={"run": self.run.id})

    async def check_budget(self) -> None:
        """Raise the error of a spent budget where no more of the caller's may be spent.

        A leg of a run begins with such a look, so its first call of the model needs none.
        """
        account = ACCOUNT.get()
        if account is not None and len(self.run.steps) > self._begun_with:
            await account.check()

    def answer_tokens(self) -> int:
        """What the next answer may take."""
        return max(1, min(self.limits.answer_tokens, self.limits.tokens - self.tokens))

    def out_of_time(self) -> Timeout:
        return Timeout(
            f"The run did not end within {self.limits.seconds:g} seconds",
            details={"limit": "seconds", "max": self.limits.seconds, "run": self.run.id},
        )

    def answered(self, answer: Answer, seconds: float) -> None:
        """Note an answer of the model."""
        usage = answer.usage
        self.run.model = answer.model or self.run.model
        if usage is not None:
            self.run.prompt_tokens += usage.prompt_tokens
            self.run.completion_tokens += usage.completion_tokens
            self.run.cached_tokens += usage.cached_tokens
            if usage.cost is not None:
                self.run.cost = (self.run.cost or 0.0) + usage.cost
                if (account := ACCOUNT.get()) is not None:
                    account.spent(usage.cost)
        self.run.steps.append(
            {
                "kind": MODEL,
                "model": answer.model,
                "text": self.redact(answer.text),
                "finish_reason": "tool_calls" if answer.tool_calls else answer.finish_reason,
                "prompt_tokens": usage.prompt_tokens if usage else None,
                "completion_tokens": usage.completion_tokens if usage else None,
                "seconds": round(seconds, 4),
            }
        )

    def called(self, call_id: str, tool: str, arguments: str) -> ToolCalled:
        """Note that the model wants a tool."""
        called = ToolCalled(call_id, tool, _read(self.redact(arguments)))
        self._unanswered[call_id] = called
        return called

    def known_ids(self) -> set[str]:
        """Of all calls of the run so far: an id that came twice could be decided by who means the other call."""
        return {*self._unanswered, *(str(step["id"]) for step in self.run.steps if "id" in step)}

    def waiting(self) -> tuple[ToolCalled, ...]:
        """The calls that have no result yet."""
        return tuple(self._unanswered.values())

    def returned(self, call_id: str, tool: str, result: str, seconds: float, *, failed: bool) -> ToolReturned | None:
        """Note what came of a call; None where that is known already."""
        called = self._unanswered.pop(call_id, None)
        if called is None:
            return None
        self.run.steps.append(
            {
                "kind": TOOL,
                "id": call_id,
                "tool": tool,
                "arguments": called.arguments,
                "result": result,
                "failed": failed,
                "seconds": round(seconds, 4),
            }
        )
        return ToolReturned(call_id, tool, result, failed, seconds)

    def decided(self, calls: Calls) -> None:
        """Note who has decided what about the calls that waited, now that all are decided."""
        self.verdicts = verdicts_of(calls)
        for call in calls:
            self.run.steps.append({"kind": DECISION, "call": call["id"], **call["decision"], "seconds": 0.0})

    def pause(self, state: str) -> tuple[ToolCalled, ...]:
        """Have the run wait for a decision about the calls without a result."""
        waiting = self.waiting()
        self.run.pending = [{"id": c.id, "tool": c.tool, "arguments": c.arguments} for c in waiting]
        self.run.state = state
        self.run.status = "paused"
        return waiting

    def done(self, answer: str) -> None:
        self.run.answer, self.run.status, self.run.ended_at = answer, "done", time.time()

    def failed(self, error: AppError) -> None:
        for call in self.waiting():
            self.returned(call.id, call.tool, "The run ended before this call did", 0.0, failed=True)
        self.run.status = "cancelled" if self.run.status == "cancelled" else "failed"
        self.run.ended_at, self.run.outcome = time.time(), error.code
        self.run.error = error.envelope()["error"]

    def _reached(self, limit: str, most: float, words: str) -> BoundReached:
        return BoundReached(
            f"The run reached its bound of {words} before it had an answer",
            details={"limit": limit, "max": most, "run": self.run.id},
        )


def _called(step: dict[str, Any]) -> ToolCalled:
    return ToolCalled(str(step["id"]), str(step["tool"]), step["arguments"])


def _read(arguments: str) -> Any:
    try:
        value = read_json_text(arguments or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else arguments.encode("utf-8", "replace").decode()
