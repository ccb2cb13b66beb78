"""The bytes of an upstream's answer as they arrive: with patience, cut into blocks of whole events, and closed."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from apps.models.gateway.blocks import EventBlocks, is_silent
from apps.models.gateway.response_blocks import ResponseBlocks
from apps.models.gateway.stream_usage import UsageReader

if TYPE_CHECKING:
    import aiohttp

DRAIN_SECONDS = 1.0


class Patience:
    """Reads a body: no silence longer than ``between`` seconds, and nothing after the time ``ends``.

    A slow reader's own time does not count, since the clock runs while a read waits and not between two of them.
    """

    def __init__(self, response: "aiohttp.ClientResponse", between: float, ends: float) -> None:
        self._content = response.content
        self._between = between
        self._ends = ends

    async def chunk(self) -> bytes:
        """The next bytes; empty at the end."""
        until = asyncio.get_running_loop().time() + self._between
        async with asyncio.timeout_at(min(until, self._ends)):
            return await self._content.readany()

    async def chunk_before_the_first_token(self) -> bytes:
        """The same, for a caller who runs a clock of its own."""
        return await self._content.readany()

    async def whole(self) -> bytes:
        """The rest, whole. Raises UpstreamError or Timeout where it breaks off."""
        from apps.models.gateway.http_errors import FAILURES, translate

        if self._content.is_eof():
            return self._content.read_nowait()
        parts = []
        try:
            while chunk := await self.chunk():
                parts.append(chunk)
        except FAILURES as error:
            raise translate(error, begun=True) from error
        return b"".join(parts)


class UpstreamBlocks:
    """The blocks of a streamed answer behind its first; closing it ends the upstream's work."""

    def __init__(
        self,
        response: "aiohttp.ClientResponse",
        patience: Patience,
        drain: "Callable[[aiohttp.ClientResponse], None]",
        events: EventBlocks | ResponseBlocks,
        usage: UsageReader,
    ) -> None:
        self._response = response
        self._drain = drain
        self._patience = patience
        self._events = events
        self._usage = usage

    async def first(self) -> bytes:
        """Everything up to the first block that says something: only then has the answer begun."""
        head = b""
        while True:
            chunk = await self._patience.chunk_before_the_first_token()
            block = self._feed(chunk)
            head += block
            if self._events.fault is not None and (not head or is_silent(head)):
                raise self._events.fault
            if block and not is_silent(block):
                return head

    def __aiter__(self) -> "UpstreamBlocks":
        return self

    async def __anext__(self) -> bytes:
        from apps.models.gateway.http_errors import FAILURES, translate

        while not self._events.ended:
            if self._events.fault is not None:
                raise self._events.fault
            try:
                block = self._feed(await self._patience.chunk())
            except FAILURES as error:
                raise translate(error, begun=True) from error
            if block:
                return block
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if not self._events.ended:
            self._response.close()
        elif not self._response.content.at_eof():
            self._drain(self._response)

    def _feed(self, chunk: bytes) -> bytes:
        if chunk:
            return self._usage.read(self._events.feed(chunk))
        self._events.finish()
        return b""


async def drain(response: "aiohttp.ClientResponse") -> None:
    from apps.models.gateway.http_errors import FAILURES

    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while await response.content.readany():
                pass
    except FAILURES:
        # the answer was whole; this connection is just not used again
        response.close()
    finally:
        if not response.content.at_eof():
            response.close()
