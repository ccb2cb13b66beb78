"""The recording of a call of /v1: the frames of its answer, and its receipt; shared by all who read it."""

from contextlib import aclosing
from dataclasses import replace

from apps.api.src.streamed import LastFrame
from apps.api.src.v1.execution import Execution
from apps.core.accounting import CacheUse
from apps.models.gateway.wire import Receipt
from apps.models.recording import Recording


class WireRecording(Recording[bytes]):
    """One execution, as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.content_type = "application/json"
        self.receipt = Receipt()

    def is_last(self, item: bytes) -> bool:
        return isinstance(item, LastFrame)

    def size_of(self, item: bytes) -> int:
        return len(item)

    def receipt_for(self, use: CacheUse | None) -> Receipt:
        """The receipt as a reader sees it: None has made the call, the others were given what it made."""
        return self.receipt if use is None else replace(self.receipt, cache=use)


async def record(execution: Execution, recording: WireRecording) -> None:
    """Make a call into a recording, for all who read it."""
    recording.receipt = execution.receipt
    if execution.call.stream:
        async with aclosing(execution.frames()) as frames:
            async for frame in frames:
                recording.add(frame)
        return
    reply = await execution.whole()
    recording.content_type = reply.content_type
    recording.add(LastFrame(reply.body))
