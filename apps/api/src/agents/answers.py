"""The answer of a run: its events collected into JSON, or streamed; metered as one call, whatever it took."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from apps.agents.agents import Agents
from apps.agents.config import AGENT_PREFIX
from apps.agents.progress import ApprovalRequired, Event, RunEnded, TextDelta, ToolCalled, ToolReturned, undecided
from apps.agents.roster import AgentCard
from apps.agents.session import RunSession
from apps.api.src.generate import framing_for, model_header
from apps.api.src.http.shutdown import guarded
from apps.api.src.http.streaming import EventStream, Framing, StreamedResponse, raw
from apps.core.agent_runs import AgentRun
from apps.core.callers import Caller
from apps.core.calls import CallRecord, Usage
from apps.core.deltas import Forwarded
from apps.core.errors import AppError
from apps.core.messages import read_json_text
from apps.models.event_stream import json_event
from apps.models.metering import CHARACTERS_PER_TOKEN, Meter

ENDED = ("done", "failed", "cancelled")


def agent_json(card: AgentCard, default_model: str) -> dict[str, Any]:
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


def run_json(run: AgentRun) -> dict[str, Any]:
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
        "usage": run_usage(run),
        "begun_at": run.begun_at,
        "ended_at": run.ended_at,
        "key_id": run.key_id,
        "outcome": run.outcome,
        "error": run.error,
    }


def run_usage(run: AgentRun) -> dict[str, Any]:
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
            return json_event(_call(what), "tool_call")
        case ToolReturned():
            result = {"id": what.id, "tool": what.tool, "result": what.result, "failed": what.failed}
            return json_event(result | {"seconds": round(what.seconds, 4)}, "tool_result")
        case ApprovalRequired():
            return json_event({"run": run.id, "calls": [_call(call) for call in what.calls]}, "approval_required")
        case RunEnded():
            return json_event(_done(what, run), "done")


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
        "usage": run_usage(run),
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


RUN_HEADER = "X-Run-ID"


async def run_answer(
    request: Request,
    agents: Agents,
    session: RunSession,
    meter: Meter,
    caller: Caller,
    route: str,
    *,
    stream: bool,
    prompt_characters: int = 0,
) -> Response:
    """Run it; ``asked`` are the characters of the question. A client that leaves ends the run."""
    events = metered_events(
        session, meter, new_record(agents, session, caller, route, prompt_characters, streamed=stream)
    )
    if not stream:
        async with aclosing(events):
            await guarded(_last(events), request.receive, request.app.state.shutdown)
        return JSONResponse(run_json(session.run), headers=run_headers(session.run))
    return _streamed(request, events, session.run)


def waiting_answer(request: Request, run: AgentRun, *, stream: bool) -> Response:
    """Of a run that goes on waiting: nothing was asked of a model, so nothing is on record."""
    if not stream:
        return JSONResponse(run_json(run), headers=run_headers(run))

    async def events() -> AsyncGenerator[Event, None]:
        for event in still_waiting(run):
            yield event

    return _streamed(request, events(), run)


def _streamed(request: Request, events: AsyncGenerator[Event, None], run: AgentRun) -> Response:
    framing = framing_for(request.headers.get("accept", ""))
    return StreamedResponse(
        _framed(events, run, framing),
        media_type=framing.media_type,
        ping=framing.ping,
        error_frame=framing.error,
        headers=lambda: raw(run_headers(run)),
        shutdown=request.app.state.shutdown,
    )


def run_headers(run: AgentRun) -> dict[str, str]:
    return {RUN_HEADER: run.id, **model_header(run.model or None)}


def new_record(
    agents: Agents, session: RunSession, caller: Caller, route: str, prompt_characters: int, *, streamed: bool
) -> CallRecord:
    """The record of a run that is about to begin, or to go on."""
    name, prompt = session.run.agent, prompt_characters // CHARACTERS_PER_TOKEN
    record = CallRecord(
        caller,
        route,
        AGENT_PREFIX + name,
        streamed=streamed,
        estimated_tokens=prompt + session.progress.limits.answer_tokens,
    )
    if caller.budget is not None:
        record.estimated_cost = agents.most_cost(name, prompt)
    return record


async def metered_events(session: RunSession, meter: Meter, record: CallRecord) -> AsyncGenerator[Event, None]:
    """The events of a run that is one call on record, with the sums over the models that it asked."""
    run = session.run
    before = (run.prompt_tokens, run.completion_tokens, run.cached_tokens, run.cost, _model_steps(run))
    async with meter.call(record) as call:
        try:
            async with Forwarded(session.events()) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        call.first_token()
                    if isinstance(event, RunEnded):
                        _note(record, run, *before)
                        call.finish()
                    yield event
        except AppError as error:
            error.headers.setdefault(RUN_HEADER, run.id)
            raise
        finally:
            if not call.closed:
                _note(record, run, *before)


def _note(
    record: CallRecord, run: AgentRun, prompt: int, completion: int, cached: int, cost: float | None, steps: int
) -> None:
    """What the run has used since it had used so much."""
    record.model = run.model
    record.usage = Usage(
        run.prompt_tokens - prompt,
        run.completion_tokens - completion,
        run.cached_tokens - cached,
        None if run.cost is None else run.cost - (cost or 0.0),
    )
    record.attempts = _model_steps(run) - steps


def _model_steps(run: AgentRun) -> int:
    return sum(step["kind"] == "model" for step in run.steps)


async def _last(events: AsyncGenerator[Event, None]) -> Any:
    last = None
    async for event in events:
        last = event
    return last


async def _framed(events: AsyncGenerator[Event, None], run: AgentRun, framing: Framing) -> AsyncGenerator[bytes, None]:
    async with Forwarded(events):
        async for event in events:
            framed = frame(event, run, framing)
            if framed or isinstance(event, RunEnded):
                yield framed
