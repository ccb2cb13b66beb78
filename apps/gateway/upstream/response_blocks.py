"""The event stream of a Responses upstream, cut into blocks of whole events, forwarded as they are.

It has no ``[DONE]``: it ends with the event that carries the whole response, as completed, incomplete or failed. What
comes before the first item of output is no answer yet, and is held back until there is one.
"""

import json
import re

from apps.core.errors import UpstreamError
from apps.gateway.upstream.event_blocks import EVENT_END, MOST_BYTES, event_data
from apps.models.upstream_errors import nonsense

# an event's type stands in its event line, and in its data; some upstreams write the second alone
NAMED = rb"(?:^|(?<=[\r\n]))(?:event: ?|data: ?\{\s*\"type\"\s*:\s*\")"
END = re.compile(NAMED + rb"response\.(?:completed|incomplete|failed)\b")
FAILED = re.compile(NAMED + rb"response\.failed\b")
PRELUDE = re.compile(NAMED + rb"response\.(?:created|in_progress|queued)\b")
FAULT = re.compile(NAMED + rb"error\b|(?:^|(?<=[\r\n]))data: ?\{\s*\"error\"\s*:\s*[^\sn]")


class ResponseBlocks:
    """Feed it chunks as they arrive; it gives back whole events, and remembers how the stream ended.

    ``ended`` is true behind the last event. ``fault`` is why nothing more may be taken from it; the events before it
    are sound and have been given back.
    """

    end, failed, prelude = END, FAILED, PRELUDE

    def __init__(self) -> None:
        self._pending = b""
        self._prelude = b""
        self._answering = False
        self.ended = False
        self.fault: UpstreamError | None = None

    def feed(self, chunk: bytes) -> bytes:
        """A block of one or more whole events, or nothing yet; the prelude comes with the first that follows it."""
        self._pending += chunk
        block, at = b"", 0
        while not self.ended and self.fault is None and (found := EVENT_END.search(self._pending, at)):
            block += self._judged(self._pending[at : found.end()])
            at = found.end()
        self._pending = self._pending[at:]
        if len(self._pending) > MOST_BYTES:
            self.fault = nonsense("An event of the upstream's answer is too long")
        return block

    def finish(self) -> bytes:
        """The last block, once the body has ended: some leave out the blank line behind their last event."""
        rest = self._pending.rstrip(b"\r\n")
        if not self.ended and self.fault is None:
            if event_data(rest) and self.end.search(rest) and _is_whole(rest):
                self._pending = b""
                return self._judged(rest + b"\n\n")
            self.fault = nonsense("The upstream's answer was cut off before its end")
        return b""

    def _judged(self, event: bytes) -> bytes:
        """The event, where it may go out now."""
        if FAULT.search(event) or (self.failed.search(event) and not self._answering):
            self.fault = nonsense("The upstream reported an error in its answer")
        elif not _is_whole(event):
            self.fault = nonsense("The upstream's answer is not JSON")
        elif not self._answering and (self.prelude.search(event) or not event_data(event)):
            self._prelude += event
        else:
            event, self._prelude, self._answering = self._prelude + event, b"", True
            self.ended = self.end.search(event) is not None
            return event
        return b""


def _is_whole(event: bytes) -> bool:
    """Braces that pair up are taken for whole JSON; else a parser decides, since text may hold one too."""
    if event.count(b"{") == event.count(b"}"):
        return True
    data = event_data(event)
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return not data
    return True
