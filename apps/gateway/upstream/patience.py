"""The bytes of an upstream's answer as they arrive: with patience, cut into blocks of whole events, and closed."""

import math
from typing import TYPE_CHECKING

from apps.gateway.upstream.event_blocks import EventBlocks, is_silent
from apps.gateway.upstream.response_blocks import ResponseBlocks
from apps.gateway.upstream.usage import UsageReader
from apps.models.upstream_errors import FAILURES, translate

if TYPE_CHECKING:
    from apps.transport.response import Response

DRAIN_SECONDS = 1.0


async def read_whole(response: "Response", silence: float, ends: float) -> bytes:
    """An answer's body. Raises UpstreamError or Timeout where it breaks off."""
    try:
        return await response.read(silence, ends)
    except FAILURES as error:
        raise translate(error, begun=True) from error


class UpstreamBlocks:
    """The blocks of a streamed answer behind its first; closing it ends the upstream's work.

    Between two of them there is no silence longer than ``silence`` seconds, and nothing comes after the time ``ends``.
    A slow reader's own time does not count.
    """

    def __init__(
        self,
        response: "Response",
        silence: float,
        ends: float,
        events: EventBlocks | ResponseBlocks,
        usage: UsageReader,
    ) -> None:
        self._response = response
        self._silence = silence
        self._ends = ends
        self._events = events
        self._usage = usage

    async def first(self, until: float) -> bytes:
        """Everything up to the first block that says something: only then has the answer begun."""
        head = b""
        while True:
            block = self._feed(await self._response.chunk(math.inf, until))
            head += block
            if self._events.fault is not None and (not head or is_silent(head)):
                raise self._events.fault
            if block and not is_silent(block):
                return head

    def __aiter__(self) -> "UpstreamBlocks":
        return self

    async def __anext__(self) -> bytes:
        while not self._events.ended:
            if self._events.fault is not None:
                raise self._events.fault
            try:
                block = self._feed(await self._response.chunk(self._silence, self._ends))
            except FAILURES as error:
                raise translate(error, begun=True) from error
            if block:
                return block
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if self._events.ended:
            # what stands behind [DONE] is the end of the body: with it the connection can be used again
            self._response.leave(DRAIN_SECONDS)
        else:
            self._response.close()

    def _feed(self, chunk: bytes) -> bytes:
        if chunk:
            return self._usage.read(self._events.feed(chunk))
        self._events.finish()
        return b""
