"""Responses in the background: made while nobody waits, and asked for, followed as a stream or cancelled by their ids.

They are made in this process and end with it. One that is under way is told as it stands; once it is whole, calls go on
from it as from any other that is kept.
"""

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from apps.api.src.exceptions import envelope
from apps.api.src.http.streaming import LastFrame
from apps.api.src.v1.cached import FrameRecording
from apps.api.src.v1.execution import Execution, WholeFrame
from apps.core.errors import AppError, Conflict, InternalError, InvalidValue, RateLimitExceeded, UpstreamError
from apps.gateway.gateway import Gateway
from apps.gateway.openai_api.chat_request import chat_request
from apps.gateway.openai_api.response_events import MADE_HERE, ResponseEvents
from apps.gateway.openai_api.responses import callers_field, chat_of
from apps.gateway.openai_api.responses_request import flat_tools
from apps.gateway.openai_api.stored_responses import Item, StoredResponses, items_of
from apps.gateway.protocol import Conversation, WireCall
from apps.models.event_stream import EventStreamDecoder, ServerSentEvent, json_bytes, json_event
from apps.models.upstream_errors import parsed_object

PATH = "/v1/responses"
MOST_AT_ONCE = 4
MOST_UNDER_WAY = 100
# of the events of responses that have ended
MOST_BYTES = 16 * 1024 * 1024
RETRY_AFTER = 10.0
# the codes that OpenAI's errors of a response have
CODES = {RateLimitExceeded.status: "rate_limit_exceeded"}
# a comment, since a stream has something in it
NOTHING_MORE = LastFrame(b": nothing more\n\n")
log = logging.getLogger(__name__)


def error_event(error: AppError, path: str) -> dict[str, Any]:
    """OpenAI's error event of a response stream, with the envelope in it: its clients raise APIError."""
    body = envelope(error, path)
    fields = {name: body["error"][name] for name in ("code", "message", "param")}
    return {"type": "error", **fields, **body}


class BackgroundResponse:
    """One response, from queued on. ``model`` is the name that its caller asked for, ``given`` the items of its input.

    ``earlier`` is the conversation that it goes on from. ``ended_at`` is a time of the clock of those that keep it.
    """

    def __init__(self, call: WireCall, execution: Execution) -> None:
        self.id = f"{MADE_HERE}{secrets.token_hex(24)}"
        self.tenant, self.model = call.caller.tenant, str(call.body["model"])
        self.given: list[Item] = items_of(call.body["input"])
        self.earlier: Conversation | None = call.earlier
        self.ended_at: float | None = None
        self.recording = FrameRecording(execution.record)
        # its readers may all leave
        self.recording.enter()
        self.execution = execution
        queued = ResponseEvents(call.body).response("queued")
        self._own = {
            "id": self.id,
            "background": True,
            "created_at": queued["created_at"],
            "previous_response_id": queued["previous_response_id"],
        }
        self.response: Mapping[str, Any] = {**queued, **self._own, "store": True, "output": []}
        for kind in ("created", "queued"):
            self._tell({"type": f"response.{kind}", "response": self.response})

    @property
    def whole(self) -> bool:
        """Whether it has ended, well or not."""
        return self.recording.whole

    def items(self) -> list[Item]:
        """The items of its input, those of the conversation that it goes on from first."""
        return [*(self.earlier.parsed() if self.earlier else ()), *self.given]

    async def events(self, after: int = -1) -> AsyncGenerator[bytes, None]:
        """Its events as they come, those whose sequence number is greater than ``after``."""
        async with aclosing(self.recording.read(None)) as frames:
            number = 0
            async for frame in frames:
                if number > after:
                    yield frame
                if isinstance(frame, LastFrame):
                    if number <= after:
                        yield NOTHING_MORE
                    return
                number += 1

    def take(self, event: ServerSentEvent, keep: Callable[[Mapping[str, Any]], bool]) -> None:
        """An event of its making. ``keep`` is asked with the whole response whether it was kept."""
        data = parsed_object(event.data) if event.data.startswith(b"{") else {}
        kind = str(data.get("type")).removeprefix("response.")
        if not data or kind in ("created", "queued") or self.whole:
            return
        if "response" in data:
            response = {**data["response"], **self._own, "store": True}
            if kind in ("completed", "incomplete"):
                response["store"] = keep(response)
            self.response = data["response"] = response
        self._tell(data, last=kind in ("completed", "incomplete", "failed"))

    def fail(self, error: AppError) -> None:
        if self.whole:
            return
        shown = envelope(error, PATH)["error"]
        code = CODES.get(error.status, "server_error" if error.status >= 500 else "invalid_prompt")
        self.response = {**self.response, "status": "failed", "error": {"code": code, "message": shown["message"]}}
        self._tell({"type": "response.failed", "response": self.response}, last=True)

    def cancel(self) -> None:
        """End it, unless it has ended; those that follow it get an error, since OpenAI's streams know no such event."""
        if self.whole:
            return
        self.response = {**self.response, "status": "cancelled"}
        self._tell(error_event(Conflict("The response was cancelled"), PATH), last=True)
        self.recording.cancel()

    def _tell(self, data: dict[str, Any], *, last: bool = False) -> None:
        frame = json_event({**data, "sequence_number": len(self.recording.items)}, str(data["type"]))
        self.recording.add(LastFrame(frame) if last else frame)


class BackgroundResponses:
    """Those of this process, for ``stored.ttl`` seconds after their end, bounded in number and bytes.

    Each tenant has ``most_at_once`` made at a time, and ``most_under_way`` that wait or are made.
    """

    def __init__(
        self,
        stored: StoredResponses,
        most_at_once: int = MOST_AT_ONCE,
        most_under_way: int = MOST_UNDER_WAY,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stored = stored
        self._most_at_once = most_at_once
        self._most_under_way = most_under_way
        self._most_bytes = most_bytes
        self._clock = clock
        self._under_way: dict[str, BackgroundResponse] = {}
        self._ended: OrderedDict[str, BackgroundResponse] = OrderedDict()
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._under_way) + len(self._ended)

    def begin(self, call: WireCall, execution: Execution) -> BackgroundResponse:
        """``execution`` streams the response that ``call`` asks for. Raises RateLimitExceeded."""
        tenant = call.caller.tenant
        if sum(one.tenant == tenant for one in self._under_way.values()) >= self._most_under_way:
            raise RateLimitExceeded(
                f"{self._most_under_way} responses are under way in the background already", retry_after=RETRY_AFTER
            )
        response = BackgroundResponse(call, execution)
        self._under_way[response.id] = response
        turns = self._turns.setdefault(tenant, asyncio.Semaphore(self._most_at_once))
        response.recording.begin(self._make(response, turns), lambda _: self._end(response))
        return response

    def find(self, tenant: str, id: str) -> BackgroundResponse | None:
        self._forget_old()
        found = self._under_way.get(id) or self._ended.get(id)
        return found if found is not None and found.tenant == tenant else None

    def delete(self, response: BackgroundResponse) -> None:
        """Cancel it where it is under way, and forget it."""
        response.cancel()
        self._under_way.pop(response.id, None)
        self._forget(response.id)

    async def aclose(self) -> None:
        """Cancel all; what is not kept elsewhere is gone."""
        under_way = list(self._under_way.values())
        for response in under_way:
            response.cancel()
        for response in under_way:
            await response.recording.ended()

    async def _make(self, response: BackgroundResponse, turns: asyncio.Semaphore) -> None:
        call = response.execution.call
        decoder = EventStreamDecoder()

        def keep(whole: Mapping[str, Any]) -> bool:
            return self._stored.keep(response.tenant, response.model, whole, response.given, call.earlier)

        try:
            async with turns, aclosing(response.execution.frames()) as frames:
                async for frame in frames:
                    for event in decoder.feed(frame):
                        response.take(event, keep)
            response.fail(UpstreamError("The upstream's answer was cut off before its end"))
        except AppError as error:
            response.fail(error)
        except Exception as error:
            log.exception("A response in the background failed")
            response.fail(InternalError("Internal server error", details={"cause": type(error).__name__}))

    def _end(self, response: BackgroundResponse) -> None:
        if not any(one.tenant == response.tenant for one in self._under_way.values() if one is not response):
            self._turns.pop(response.tenant, None)
        if self._under_way.pop(response.id, None) is None:
            return
        response.ended_at = self._clock()
        self._ended[response.id] = response
        self._size += response.recording.size
        while self._size > self._most_bytes and len(self._ended) > 1:
            self._forget(next(iter(self._ended)))

    def _forget_old(self) -> None:
        oldest = self._clock() - self._stored.ttl
        while self._ended and (first := next(iter(self._ended.values()))).ended_at is not None:
            if first.ended_at > oldest:
                return
            self._forget(first.id)

    def _forget(self, id: str) -> None:
        if (forgotten := self._ended.pop(id, None)) is not None:
            self._size -= forgotten.recording.size


def may_begin(call: WireCall, gateway: Gateway) -> bool:
    """Whether a response in the background is made here: its upstream makes its own, where it has any.

    Raises what its body alone is refused for, before anything has begun, and NotFound for an unknown model.
    """
    stored = gateway.stored_responses
    if call.path != "/responses" or not stored.on or not gateway.makes_responses(call):
        return False
    if not stored.keeps(call):
        raise InvalidValue("background can only be used when `store` is true", field="background")
    chat = chat_of(stored, call)
    if gateway.router.is_local(call.body["model"]):
        try:
            chat_request(chat, call.caller)
        except AppError as error:
            error.field = (
                None if error.field is None else callers_field(flat_tools(call.body.get("tools")), error.field)
            )
            raise
    return True


def in_background(call: WireCall) -> WireCall:
    """The call that makes a response of this one, which its maker does not keep: it has no id of its own."""
    body = {name: value for name, value in call.body.items() if name != "background"}
    body |= {"stream": True, "store": False}
    return call._replace(raw=json_bytes(body), body=body, stream=True)


async def begun(responses: BackgroundResponses, call: WireCall, execution: Execution) -> AsyncGenerator[bytes, None]:
    """The frames of the answer to a call that begins one: the response as it is queued, or its events."""
    response = responses.begin(call, execution)
    if not call.stream:
        yield WholeFrame.of("application/json", json_bytes(response.response))
        return
    async with aclosing(response.events()) as events:
        async for event in events:
            yield event
