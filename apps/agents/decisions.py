"""What was decided about the calls that a paused run waits with: who may still be decided on, and what is kept of it.

A decision stands in the run's record beside its call, so that it outlives the process; the run goes on with the last.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from apps.core.agent_runs import AgentRun
from apps.core.errors import Conflict, InvalidValue, NotFound

Calls = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """About one call; the model is told ``reason`` where it is denied."""

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
