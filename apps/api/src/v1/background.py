"""Responses in the background: made while nobody waits, and asked for, followed as a stream or cancelled by their ids.

They are made in this process and end with it. One that is under way is told as it stands; once it is whole, calls go on
from it as from any other that is kept.
"""

import asyncio
import json
import logging
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from apps.api.src.auth.authentication import unauthorized
from apps.api.src.exceptions import envelope
from apps.api.src.http.streaming import LastFrame
from apps.api.src.v1.cached import FrameRecording
from apps.api.src.v1.execution import Execution, error_event
from apps.core.callers import Caller
from apps.core.calls import CANCELLED, SHUT_DOWN, CallRecord
from apps.core.errors import (
    AppError,
    Conflict,
    InternalError,
    InvalidValue,
    PayloadTooLarge,
    RateLimitExceeded,
    Timeout,
    UpstreamError,
)
from apps.core.ports import Observation
from apps.gateway.openai_api.response_events import MADE_HERE, ResponseEvents
from apps.gateway.openai_api.stored_responses import Item, StoredResponses, items_of
from apps.gateway.protocol import WireCall
from apps.models.event_stream import EventStreamDecoder, ServerSentEvent, json_bytes, json_event
from apps.models.upstream_errors import parsed_object
from apps.operations.key_store import KeyRing

PATH = "/v1/responses"
MOST_AT_ONCE = 4
MOST_UNDER_WAY = 100
# of responses that have ended, of one tenant
MOST_ENDED = 1_000
# of what is kept of those, of all tenants
MOST_BYTES = 16 * 1024 * 1024
RETRY_AFTER = 10.0
ENDS = ("completed", "incomplete", "failed", "cancelled")
STATUSES = ("in_progress", *ENDS)
# the codes that OpenAI's errors of a response have, by status; "server_error" stands for all others
CODES = {
    RateLimitExceeded.status: "rate_limit_exceeded",
    **dict.fromkeys((400, PayloadTooLarge.status, InvalidValue.status), "invalid_prompt"),
}
# a comment, since a stream has something in it
NOTHING_MORE = LastFrame(b": nothing more\n\n")
log = logging.getLogger(__name__)


class BackgroundResponse:
    """One response, from queued on. ``model`` is the name that its caller asked for, ``record`` its execution's.

    ``is_made`` from its turn on; ``error`` is what it failed with here. ``ended_at`` is a time of the clock of those
    that keep it, ``size`` the bytes of what is kept, once it has ended. Its call and its execution are not kept.
    """

    def __init__(self, call: WireCall, record: CallRecord) -> None:
        self.id = f"{MADE_HERE}{secrets.token_hex(24)}"
        self.tenant, self.model = call.caller.tenant, str(call.body["model"])
        # as JSON, which is less than what it is read into
        self._given = json_bytes(items_of(call.body["input"]))
        self._earlier = call.earlier
        self.is_made = False
        self.error: AppError | None = None
        self.ended_at = 0.0
        self.size = 0
        self.recording = FrameRecording(record)
        # its readers may all leave
        self.recording.enter()
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
        return [*(self._earlier.parsed() if self._earlier else ()), *self.given()]

    def given(self) -> list[Item]:
        """The items of its input alone."""
        items: list[Item] = json.loads(self._given)
        return items

    def end(self, now: float) -> None:
        """Note that it ended ``now``, and how much is kept of it."""
        earlier = len(self._earlier.items) if self._earlier else 0
        self.ended_at = now
        self.size = self.recording.size + len(json_bytes(self.response)) + len(self._given) + earlier

    async def opened(self) -> None:
        """Wait until it is being answered. Raises what it failed with before that."""
        while self.response["status"] == "queued" and not self.whole:
            await self.recording.change(None)
        if self.error is not None:
            raise self.error

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
            # an event's kind is what it says of the response, whose own field may be missing
            status = kind if kind in STATUSES else self.response["status"]
            response = {**data["response"], **self._own, "store": True, "status": status}
            if kind in ("completed", "incomplete"):
                response["store"] = keep(response)
            self.response = data["response"] = response
        self._tell(data, last=kind in ENDS)

    def fail(self, error: AppError) -> None:
        if self.whole:
            return
        # without its traceback, which holds the execution
        self.error = error.as_kind(type(error))
        message = envelope(error, PATH)["error"]["message"]
        shown = {"code": CODES.get(error.status, "server_error"), "message": message}
        self.response = {**self.response, "status": "failed", "error": shown}
        self._tell({"type": "response.failed", "response": self.response}, last=True)

    def cancel(self, outcome: str = CANCELLED) -> None:
        """End it, unless it has ended; those that follow it get an error, since OpenAI's streams know no such event.

        ``outcome`` is its call's.
        """
        if self.whole:
            return
        self.response = {**self.response, "status": "cancelled"}
        self._tell(error_event(Conflict("The response was cancelled"), PATH), last=True)
        self.recording.cancel(outcome)

    def _tell(self, data: dict[str, Any], *, last: bool = False) -> None:
        frame = json_event({**data, "sequence_number": len(self.recording.items)}, str(data["type"]))
        self.recording.add(LastFrame(frame) if last else frame)


class BackgroundResponses:
    """Those of this process, for ``stored.ttl`` seconds after their end, bounded in number and bytes.

    Each tenant has ``most_at_once`` made at a time, ``most_under_way`` that wait or are made, and ``most_ended`` that
    have ended. Of all that have ended ``most_bytes`` are kept: the oldest of the tenant that has most goes first,
    but never the only one. ``keys`` know whether the key of one that has waited for its turn is still good.

    It is Observed.
    """

    def __init__(
        self,
        stored: StoredResponses,
        keys: KeyRing | None = None,
        most_at_once: int = MOST_AT_ONCE,
        most_under_way: int = MOST_UNDER_WAY,
        most_bytes: int = MOST_BYTES,
        most_ended: int = MOST_ENDED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stored = stored
        self._keys = keys
        self._ends: Counter[str] = Counter()
        self._most_at_once = most_at_once
        self._most_under_way = most_under_way
        self._most_bytes = most_bytes
        self._most_ended = most_ended
        self._clock = clock
        self._under_way: dict[str, BackgroundResponse] = {}
        self._ended: dict[str, OrderedDict[str, BackgroundResponse]] = {}
        self._sizes: dict[str, int] = {}
        self._turns: dict[str, asyncio.Semaphore] = {}

    def __len__(self) -> int:
        return len(self._under_way) + sum(map(len, self._ended.values()))

    def begin(self, call: WireCall, execution: Execution) -> BackgroundResponse:
        """``execution`` streams the response that ``call`` asks for. Raises RateLimitExceeded."""
        self._forget_old()
        tenant = call.caller.tenant
        if sum(one.tenant == tenant for one in self._under_way.values()) >= self._most_under_way:
            raise RateLimitExceeded(
                f"{self._most_under_way} responses are under way in the background already", retry_after=RETRY_AFTER
            )
        response = BackgroundResponse(call, execution.record)
        self._under_way[response.id] = response
        turns = self._turns.setdefault(tenant, asyncio.Semaphore(self._most_at_once))
        response.recording.begin(self._make(response, execution, turns), lambda _: self._end(response))
        return response

    def find(self, tenant: str, id: str) -> BackgroundResponse | None:
        self._forget_old()
        found = self._under_way.get(id)
        if found is not None:
            return found if found.tenant == tenant else None
        kept = self._ended.get(tenant)
        return None if kept is None else kept.get(id)

    def delete(self, response: BackgroundResponse) -> None:
        """Cancel it where it is under way, and forget it."""
        response.cancel()
        self._under_way.pop(response.id, None)
        if response.id in self._ended.get(response.tenant, {}):
            self._forget(response)

    async def aclose(self) -> None:
        """Cancel all; what is not kept elsewhere is gone."""
        under_way = list(self._under_way.values())
        for response in under_way:
            response.cancel(SHUT_DOWN)
        for response in under_way:
            await response.recording.ended()

    def observations(self) -> Iterable[Observation]:
        made = sum(response.is_made for response in self._under_way.values())
        for state, count in (("queued", len(self._under_way) - made), ("in_progress", made)):
            text = "Responses in the background that wait for their turn, and that are made"
            yield Observation("genai_background_responses", text, float(count), labels={"state": state})
        for status in ENDS:
            text = "Responses in the background that have ended"
            name, ended = "genai_background_responses_ended_total", float(self._ends[status])
            yield Observation(name, text, ended, "counter", {"status": status})

    async def _make(self, response: BackgroundResponse, execution: Execution, turns: asyncio.Semaphore) -> None:
        decoder = EventStreamDecoder()

        def keep(whole: Mapping[str, Any]) -> bool:
            return self._stored.keep(response.tenant, response.model, whole, response.given(), execution.call.earlier)

        try:
            async with _turn(turns, execution.deadline) as waited:
                if waited:
                    await self._check_key(execution.call.caller, execution.deadline)
                response.is_made = True
                async with aclosing(execution.frames()) as frames:
                    async for frame in frames:
                        for event in decoder.feed(frame):
                            response.take(event, keep)
            response.fail(UpstreamError("The upstream's answer was cut off before its end"))
        except AppError as error:
            response.fail(error)
        except Exception as error:
            log.exception("A response in the background failed")
            response.fail(InternalError("Internal server error", details={"cause": type(error).__name__}))

    async def _check_key(self, caller: Caller, deadline: float | None) -> None:
        """Raise Unauthorized where the caller's key was revoked or has expired since the response was begun.

        It waits for a database that is not there, up to ``deadline``, and raises Timeout then.
        """
        if self._keys is None or caller.key_id is None:
            return
        async with _until(deadline):
            if await self._keys.is_void(caller.key_id):
                raise unauthorized()

    def _end(self, response: BackgroundResponse) -> None:
        if not any(one.tenant == response.tenant for one in self._under_way.values() if one is not response):
            self._turns.pop(response.tenant, None)
        if self._under_way.pop(response.id, None) is not None:
            self._keep(response)
        self._ends[str(response.response["status"])] += 1

    def _keep(self, response: BackgroundResponse) -> None:
        self._forget_old()
        response.end(self._clock())
        kept = self._ended.setdefault(response.tenant, OrderedDict())
        kept[response.id] = response
        self._sizes[response.tenant] = self._sizes.get(response.tenant, 0) + response.size
        if len(kept) > self._most_ended:
            self._forget(_oldest(kept))
        while sum(self._sizes.values()) > self._most_bytes and sum(map(len, self._ended.values())) > 1:
            largest = max(self._sizes, key=lambda one: self._sizes[one])
            self._forget(_oldest(self._ended[largest]))

    def _forget_old(self) -> None:
        oldest = self._clock() - self._stored.ttl
        for kept in list(self._ended.values()):
            while kept and (first := _oldest(kept)).ended_at <= oldest:
                self._forget(first)

    def _forget(self, ended: BackgroundResponse) -> None:
        kept = self._ended[ended.tenant]
        del kept[ended.id]
        self._sizes[ended.tenant] -= ended.size
        if not kept:
            del self._ended[ended.tenant], self._sizes[ended.tenant]


def _oldest(kept: OrderedDict[str, BackgroundResponse]) -> BackgroundResponse:
    return next(iter(kept.values()))


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore, deadline: float | None) -> AsyncIterator[bool]:
    """A place among those that are made, and whether it had to be waited for. Raises Timeout."""
    waits = turns.locked()
    async with _until(deadline):
        await turns.acquire()
    try:
        yield waits
    finally:
        turns.release()


@asynccontextmanager
async def _until(deadline: float | None) -> AsyncIterator[None]:
    """A block that ends by ``deadline``, a time of the loop's clock. Raises Timeout."""
    try:
        async with asyncio.timeout_at(deadline) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise Timeout("The deadline ran out") from None
