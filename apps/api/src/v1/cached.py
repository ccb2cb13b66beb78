"""The response cache on /v1: which calls can be cached, and their frames as its items.

A stream is replayed frame by frame, byte for byte, but for its receipt, which is the replay's own.
"""

import json
from collections.abc import AsyncGenerator

from apps.api.src.http.streaming import LastFrame
from apps.api.src.v1.execution import Execution, SealedFrame, WholeFrame
from apps.cache.entry import CacheKey, CorruptEntry, cache_key
from apps.cache.front import CacheFront
from apps.core.calls import CallRecord
from apps.core.messages import CacheControl
from apps.gateway.protocol import WireCall
from apps.gateway.routing.estimates import is_deterministic, is_whole_when_answered
from apps.gateway.routing.router import Router
from apps.gateway.upstream.response_blocks import FAILED
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
        lambda: execution.gateway.router.revision(execution.record.asked),
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
