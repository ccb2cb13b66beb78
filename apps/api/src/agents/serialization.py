"""Agents and runs as the API shows them: values in, JSON out."""

from typing import Any

from apps.agents.config import AGENT_PREFIX
from apps.agents.decisions import undecided
from apps.agents.events import ApprovalRequired, Event, RunEnded, TextDelta, ToolCalled, ToolReturned
from apps.agents.roster import AgentCard
from apps.api.src.http.sse import EventStream, Framing, event
from apps.core.agent_runs import AgentRun
from apps.core.strict_json import read_json_text

ENDED = ("done", "failed", "cancelled")


def shown_agent(card: AgentCard, default_model: str) -> dict[str, Any]:
    config = card.config
    return {
        "name": card.name,
        "model": AGENT_PREFIX + card.name,
        "description": config.description,
        "answers_by": config.model or default_model,
        "tools": [{"name": t.name, "description": t.description, "approval": t.approval} for t in card.tools],
        "limits": config.limits.model_dump(),
        "output_schema": config.output_schema,
    }


def shown_run(run: AgentRun) -> dict[str, Any]:
    return {
        "run": run.id,
        "agent": run.agent,
        "status": run.status,
        "finish_reason": _finish_reason(run),
        "answer": run.answer,
        "output": _as_json(run.answer),
        "model": run.model or None,
        "steps": run.steps,
        "pending": [_waiting(call) for call in undecided(run.pending)],
        "decided": [_waiting(call) | call["decision"] for call in run.pending if call.get("decision")],
        "usage": shown_usage(run),
        "begun_at": run.begun_at,
        "ended_at": run.ended_at,
        "key_id": run.key_id,
        "outcome": run.outcome,
        "error": run.error,
    }


def shown_usage(run: AgentRun) -> dict[str, Any]:
    return {
        "prompt_tokens": run.prompt_tokens,
        "completion_tokens": run.completion_tokens,
        "total_tokens": run.prompt_tokens + run.completion_tokens,
        "cached_tokens": run.cached_tokens,
        "cost": run.cost,
    }


def frame(what: Event, run: AgentRun, framing: Framing) -> bytes:
    """One event of a stream; empty where the framing has no room for it."""
    if isinstance(what, TextDelta):
        return framing.delta(what.text)
    if not isinstance(framing, EventStream):
        return b""
    match what:
        case ToolCalled():
            return event("tool_call", _call(what))
        case ToolReturned():
            told = {"id": what.id, "tool": what.tool, "result": what.result, "failed": what.failed}
            return event("tool_result", told | {"seconds": round(what.seconds, 4)})
        case ApprovalRequired():
            return event("approval_required", {"run": run.id, "calls": [_call(call) for call in what.calls]})
        case RunEnded():
            return event("done", _done(what, run))


def still_waiting(run: AgentRun) -> tuple[ApprovalRequired, RunEnded]:
    """The events of a run that goes on waiting, since some of its calls are not decided."""
    calls = (ToolCalled(call["id"], call["tool"], call["arguments"]) for call in undecided(run.pending))
    return ApprovalRequired(tuple(calls)), RunEnded("approval_required", "", run.model or None)


def _waiting(call: dict[str, Any]) -> dict[str, Any]:
    return {"id": call["id"], "tool": call["tool"], "arguments": call["arguments"]}


def _done(ended: RunEnded, run: AgentRun) -> dict[str, Any]:
    return {
        "finish_reason": ended.finish_reason,
        "model": ended.model,
        "usage": shown_usage(run),
        "run": run.id,
        "status": run.status,
        "answer": ended.answer,
    }


def _call(call: ToolCalled) -> dict[str, Any]:
    return {"id": call.id, "tool": call.tool, "arguments": call.arguments}


def _finish_reason(run: AgentRun) -> str | None:
    if run.status == "paused":
        return "approval_required"
    return str(run.steps[-1]["finish_reason"]) if run.status == "done" and run.steps else None


def _as_json(answer: str) -> Any:
    if not answer.startswith(("{", "[")):
        return None
    try:
        return read_json_text(answer)
    except ValueError:
        return None
