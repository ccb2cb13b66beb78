"""The response cache on /v1: frames that were kept, frames of a call that is under way, or frames made now.

A stream is replayed frame by frame, byte for byte, but for its receipt, which is the replay's own.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from itertools import islice

from fastapi import Request
from starlette.responses import Response

from apps.api.src.http.guard import guarded
from apps.api.src.v1.execution import Execution, SealedFrame, new_record
from apps.api.src.v1.idempotency import WireRecording, record
from apps.api.src.v1.replies import WholeResponse, joined, streamed_reply
from apps.cache.entry import Facts
from apps.cache.question import Question, question, without_last_user_text
from apps.cache.response_cache import Flights, Found, ResponseCache
from apps.core.calls import CallRecord
from apps.core.messages import CacheWishes
from apps.gateway.gateway import Gateway
from apps.gateway.protocol import Receipt, WireCall
from apps.gateway.routing.estimates import is_deterministic, is_whole_when_answered
from apps.gateway.upstream.response_blocks import FAILED
from apps.models.metering import Meter
from apps.models.recording import ITEMS_A_TURN

GIVEN_STATUS = frozenset({None, "completed", "incomplete"})


class V1Cache:
    """Answers the calls that can be cached."""

    def __init__(self, cache: ResponseCache, gateway: Gateway, meter: Meter) -> None:
        self._cache = cache
        self._gateway = gateway
        self._meter = meter
        self._flights = Flights(cache, WireRecording, _kept_frames)

    def question(self, call: WireCall, wishes: CacheWishes) -> Question | None:
        """None where the answer is neither looked for nor kept."""
        if not (wishes.look or wishes.keep) or not is_whole_when_answered(call):
            return None
        name = str(call.body["model"])
        if wishes.ttl is None and not is_deterministic(call, lambda: self._gateway.router.is_greedy(name)):
            return None
        revision = self._revision(call)
        if revision is None:
            return None
        # left out, null and false are the same question
        asked = {**call.body, "stream": call.stream}
        route, ttl = "/v1" + call.path, self._cache.ttl
        return question(route, asked, revision, call.caller, wishes, ttl, without_last_user_text)

    async def respond(self, request: Request, call: WireCall, asked: Question, deadline: float | None) -> Response:
        execution = Execution(self._gateway, self._meter, call, cache="miss")

        async def execute(recording: WireRecording) -> Facts | None:
            facts = await _execute(execution, recording)
            return facts if self._revision(call) == asked.revision else None

        answer = await self._flights.answer(asked, execute)
        if isinstance(answer, Found):
            return await self._replay(request, call, answer)
        made = answer.recording
        if answer.begun_here:
            return await _respond(request, call, made, made.read(deadline), lambda: made.receipt)
        frames = self._joining(call, made, made.read(deadline))
        return await _respond(request, call, made, frames, lambda: _free(made.receipt, Receipt(cache="hit", age=0.0)))

    def _revision(self, call: WireCall) -> str | None:
        return self._gateway.router.revision(str(call.body["model"]))

    async def _replay(self, request: Request, call: WireCall, found: Found) -> Response:
        facts = found.entry.facts
        known = Receipt(facts.model, facts.provider, estimated=facts.estimated, cached_tokens=facts.cached_tokens)
        known.prompt_tokens, known.completion_tokens = facts.prompt_tokens, facts.completion_tokens
        receipt = _free(known, Receipt(cache=found.use, age=found.age, score=found.score))
        free = _free_record(call, found.use)
        _note(free, receipt, facts.cost)
        if call.stream:
            return streamed_reply(request, self._replayed(free, found, receipt), lambda: receipt)
        async with self._meter.call(free):
            return WholeResponse(facts.content_type, b"".join(found.entry.frames), receipt)

    async def _replayed(self, free: CallRecord, found: Found, receipt: Receipt) -> AsyncGenerator[bytes, None]:
        frames = found.entry.frames
        async with self._meter.call(free) as metered:
            metered.first_token()
            for number, frame in enumerate(islice(frames, len(frames) - 2), 1):
                if number % ITEMS_A_TURN == 0:
                    await asyncio.sleep(0)
                yield frame
            metered.finish()
            yield SealedFrame.sealed(frames[-2], receipt, frames[-1])

    async def _joining(
        self, call: WireCall, made: WireRecording, reading: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """What another caller's execution answers; it has cost that one."""
        free = _free_record(call, "hit")
        async with aclosing(reading) as frames, self._meter.call(free) as metered:
            async for frame in frames:
                metered.first_token()
                if made.is_last(frame):
                    receipt = _free(made.receipt, Receipt(cache="hit", age=0.0))
                    _note(free, receipt, made.receipt.cost)
                    metered.finish()
                    if isinstance(frame, SealedFrame):
                        frame = SealedFrame.sealed(frame.before, receipt, frame.after)
                yield frame


async def _execute(execution: Execution, recording: WireRecording) -> Facts | None:
    await record(execution, recording)
    if not _may_be_kept(execution.call, recording):
        return None
    told = recording.receipt
    tokens = (told.prompt_tokens, told.completion_tokens, told.cached_tokens, told.estimated)
    return Facts(recording.content_type, told.model, told.provider, *tokens, told.cost)


def _may_be_kept(call: WireCall, recording: WireRecording) -> bool:
    """Whether the answer is whole, and no failure that came with status 200."""
    last = recording.items[-1] if recording.items else b""
    if not recording.is_last(last):
        return False
    if call.stream:
        return isinstance(last, SealedFrame) and not (call.path == "/responses" and FAILED.search(last.after))
    return call.path != "/responses" or json.loads(last).get("status") in GIVEN_STATUS


def _kept_frames(recording: WireRecording) -> list[bytes]:
    """The frames; the last one of a stream as the two halves that a receipt stands between."""
    last = recording.items[-1]
    halves = [last.before, last.after] if isinstance(last, SealedFrame) else [last]
    return [*recording.items[:-1], *halves]


async def _respond(
    request: Request,
    call: WireCall,
    made: WireRecording,
    frames: AsyncGenerator[bytes, None],
    receipt: Callable[[], Receipt],
) -> Response:
    if call.stream:
        return streamed_reply(request, frames, receipt)
    try:
        body = await guarded(joined(frames), request.receive, request.app.state.shutdown)
    finally:
        await frames.aclose()
    return WholeResponse(made.content_type, body, receipt())


def _free(made: Receipt, how: Receipt) -> Receipt:
    """The receipt of a call that was answered without an attempt."""
    return replace(
        how,
        model=made.model,
        provider=made.provider,
        prompt_tokens=made.prompt_tokens,
        completion_tokens=made.completion_tokens,
        cached_tokens=made.cached_tokens,
        estimated=made.estimated,
        cost=0.0,
    )


def _free_record(call: WireCall, use: str) -> CallRecord:
    free = new_record(call, "semantic" if use == "semantic" else "hit")
    free.estimated_tokens, free.estimated_cost, free.cost = 0, 0.0, 0.0
    return free


def _note(free: CallRecord, receipt: Receipt, cost: float | None) -> None:
    free.model, free.provider, free.saved = receipt.model, receipt.provider, cost or 0.0
    free.prompt_tokens, free.completion_tokens = receipt.prompt_tokens, receipt.completion_tokens
    free.cached_tokens, free.estimated = receipt.cached_tokens, receipt.estimated
