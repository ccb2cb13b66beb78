"""Answers of /v1 that are not made twice: the response cache's, and those of an Idempotency-Key.

A cached stream is replayed frame by frame, byte for byte, but for its receipt, which is the replay's own.

A call that is sent again under its Idempotency-Key is answered from its recording, and executed once. Recordings are
kept in this process, bounded in number and bytes, the oldest deleted first. A recording belongs to its caller: the
holder of an API key at any address, or else the client's address and credentials together. Only whole answers are kept;
a failed call may be retried.
"""

import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request

from apps.api.src.http.request import header
from apps.api.src.http.streaming import LastFrame
from apps.api.src.v1.execution import Execution, SealedFrame, WholeFrame
from apps.cache.entry import CacheKey, CorruptEntry, cache_key
from apps.cache.front import CacheFront
from apps.core.calls import CallRecord
from apps.core.errors import Conflict, InvalidValue
from apps.core.messages import CacheControl
from apps.gateway.protocol import WireCall, is_deterministic, is_whole_when_answered
from apps.gateway.routing.router import Router
from apps.gateway.upstream.event_blocks import FAILED
from apps.models.recording import Recording

STORED_STATUS = frozenset({None, "completed", "incomplete"})
LENGTH_BYTES = 4


def key_of(call: WireCall, control: CacheControl, front: CacheFront, router: Router) -> CacheKey | None:
    """None where the answer is neither looked up nor stored."""
    if not (control.lookup or control.store) or not is_whole_when_answered(call):
        return None
    name = str(call.body["model"])
    if control.ttl is None and not is_deterministic(call, lambda: router.is_greedy(name)):
        return None
    revision = router.revision(name)
    if revision is None:
        return None
    # left out, null and false are the same
    parameters = {**call.body, "stream": call.stream} | ({"fits": True} if call.fits else {})
    return cache_key("/v1" + call.path, parameters, revision, call.caller, control, front.cache.ttl)


async def cached(
    execution: Execution, key: CacheKey, front: CacheFront, deadline: float | None
) -> list[bytes] | AsyncGenerator[bytes, None]:
    """The frames of the answer; a list where they are stored. ``deadline`` is the reader's, not the execution's."""
    call = execution.call
    codec = StreamCodec(call.path) if call.stream else BodyCodec(call.path)
    return await front.answer(
        key,
        execution.record,
        codec,
        execution.items,
        lambda: execution.gateway.router.revision(execution.record.requested_model),
        deadline,
    )


class FrameRecording(Recording[bytes]):
    """One execution, as frames."""

    def is_last(self, item: bytes) -> bool:
        return isinstance(item, LastFrame)

    def size_of(self, item: bytes) -> int:
        return len(item)


class StreamCodec:
    """Implements Codec for the frames of a stream; the last one is stored without the receipt in it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def recording(self, record: CallRecord) -> FrameRecording:
        return FrameRecording(record)

    def may_store(self, recording: Recording[bytes]) -> bool:
        last = recording.items[-1] if recording.items else None
        return isinstance(last, SealedFrame) and not (self._path == "/responses" and FAILED.search(last.after))

    def encode(self, item: bytes) -> bytes:
        if not isinstance(item, SealedFrame):
            return item
        return len(item.before).to_bytes(LENGTH_BYTES, "big") + item.before + item.after

    def decode(self, frame: bytes, *, last: bool) -> bytes:
        if not last:
            return frame
        end = LENGTH_BYTES + int.from_bytes(frame[:LENGTH_BYTES], "big")
        if not LENGTH_BYTES <= end < len(frame):
            raise CorruptEntry("no end of a stream")
        sealed = SealedFrame()
        sealed.before, sealed.after = frame[LENGTH_BYTES:end], frame[end:]
        return sealed

    def sealed(self, last: bytes, record: CallRecord) -> bytes:
        return SealedFrame.sealed(last.before, record, last.after) if isinstance(last, SealedFrame) else last


class BodyCodec:
    """Implements Codec for a whole body; its content type is stored before it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def recording(self, record: CallRecord) -> FrameRecording:
        return FrameRecording(record)

    def may_store(self, recording: Recording[bytes]) -> bool:
        """A response may have failed with status 200."""
        if not recording.items:
            return False
        return self._path != "/responses" or json.loads(recording.items[-1]).get("status") in STORED_STATUS

    def encode(self, item: bytes) -> bytes:
        return (item.content_type.encode("latin-1") if isinstance(item, WholeFrame) else b"") + b"\n" + item

    def decode(self, frame: bytes, *, last: bool) -> bytes:
        content_type, separator, body = frame.partition(b"\n")
        if not separator or not last:
            raise CorruptEntry("no whole body")
        return WholeFrame.of(content_type.decode("latin-1"), body)

    def sealed(self, last: bytes, record: CallRecord) -> bytes:
        return last


KEPT_SECONDS = 24 * 3600.0
MOST_RECORDINGS = 10_000
MOST_BYTES = 64 * 1024 * 1024
LARGEST = 8 * 1024 * 1024
KEY = re.compile(r"[\x21-\x7e]{1,255}")
CREDENTIALS = ("authorization", "api-key", "x-api-key")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose call it is under which key (``name``), and what was asked; neither can be turned back into a secret."""

    name: bytes
    body_digest: bytes


def identity(request: Request, call: WireCall) -> Identity | None:
    """None where the call has no Idempotency-Key. Raises InvalidValue where it has a bad one."""
    key = header(request.scope, b"idempotency-key")
    if key is None:
        return None
    if not KEY.fullmatch(key):
        raise InvalidValue("Idempotency-Key must be 1 to 255 visible ASCII characters", field="Idempotency-Key")
    name = hashlib.sha256("\n".join([*_caller(request, call), key]).encode()).digest()
    return Identity(name, hashlib.sha256(call.path.encode() + b"\n" + call.raw).digest())


def _caller(request: Request, call: WireCall) -> list[str]:
    if call.caller.key_id is not None:
        return [call.caller.tenant, call.caller.key_id]
    return [request.client.host if request.client else "", *(request.headers.get(name, "") for name in CREDENTIALS)]


class IdempotentRecording(FrameRecording):
    """The execution of a call under its key; ``asked`` is what was asked, ``begun`` a time of the recordings' clock."""

    def __init__(self, record: CallRecord, body_digest: bytes, begun: float) -> None:
        super().__init__(record)
        self.body_digest = body_digest
        self.begun = begun


# the frames of an execution that the recording is of
Execute = Callable[[FrameRecording], AsyncGenerator[bytes, None]]


class Recordings:
    """The recordings of an app, by caller and key."""

    def __init__(
        self,
        most: int = MOST_RECORDINGS,
        most_bytes: int = MOST_BYTES,
        largest: int = LARGEST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._largest = largest
        self._clock = clock
        self._kept: OrderedDict[bytes, IdempotentRecording] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def join(self, named: Identity, record: CallRecord, execute: Execute) -> IdempotentRecording:
        """The recording under this name: one that is there, or a new one of ``execute``, with ``record``.

        Raises Conflict for another body under the same name.
        """
        self._forget_old()
        recording = self._kept.get(named.name)
        if recording is not None and not recording.given_up:
            if recording.body_digest != named.body_digest:
                raise Conflict("This Idempotency-Key was used with another body", field="Idempotency-Key")
            return recording
        recording = IdempotentRecording(record, named.body_digest, self._clock())
        self._kept[named.name] = recording
        recording.begin(_fill(recording, execute), lambda ended: self._ended(named.name, ended))
        return recording

    def _ended(self, name: bytes, recording: IdempotentRecording) -> None:
        if self._kept.get(name) is not recording:
            return
        if recording.error is not None or recording.size > self._largest:
            del self._kept[name]
            return
        self.size += recording.size
        while len(self._kept) > self._most or self.size > self._most_bytes:
            oldest = next((key for key, kept in self._kept.items() if kept.done), None)
            if oldest is None:
                break
            self._drop(oldest)

    def _forget_old(self) -> None:
        while self._kept:
            name, recording = next(iter(self._kept.items()))
            if not recording.done or self._clock() - recording.begun < KEPT_SECONDS:
                return
            self._drop(name)

    def _drop(self, name: bytes) -> None:
        self.size -= self._kept.pop(name).size


async def _fill(recording: IdempotentRecording, execute: Execute) -> None:
    async with aclosing(execute(recording)) as frames:
        async for frame in frames:
            recording.add(frame)
