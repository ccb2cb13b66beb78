"""An upstream's event stream, cut into blocks of whole events, judged without parsing what is well.

A block is forwarded byte for byte. Five things are looked for in it: the end of the stream, finish reasons, an error
that came with status 200, an event that is not whole, and bytes that are no UTF-8. A cut never leaves half an event
with the client.

The stream of a Responses upstream has no ``[DONE]``: it ends with the event that carries the whole response, as
completed, incomplete or failed. What comes before the first item of output is no answer yet, and is held back until
there is one. Of Anthropic's messages the usage is read as it passes by.

Bytes are searched by ``find``: CPython's ``in`` takes them for a number first, and the TypeError of that, which it
makes and drops each time, costs more than the search. Expressions read where a plain search has found something.
"""

import json
import re
from typing import Any

from apps.core.calls import CallRecord, Usage
from apps.core.errors import UpstreamError
from apps.models.upstream_errors import nonsense, parsed_object

MOST_BYTES = 16 * 1024 * 1024
# a JSON key with a value that is not null: inside a string of a model's text the quotes would be escaped
ERROR_KEY = re.compile(rb'"error"\s*:\s*[^\sn]')
DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"
# a model's text would have a backslash before the quote
FINISHES = (b'"finish_reason":"', b'"finish_reason": "')
EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n")
# most events are shorter; what is longer, or has another line end, an expression finds the end of
NEAR_BYTES = 4096
LINE_END = re.compile(rb"\r\n|\r|\n")
SAYS_SOMETHING = re.compile(rb'"(?:content|text)":\s?"[^"]')
SILENT = frozenset({"role", "content", "refusal", "tool_calls", "reasoning_content", "reasoning"})


class EventBlocks:
    """Feed it chunks as they arrive; it gives back whole events, and remembers how the stream ended.

    A stream ends with ``[DONE]``, or with its body where each of the answer's ``choices`` has a finish reason.
    ``ended`` is true behind that. ``fault`` is why nothing more may be taken from it; the events before it are sound
    and have been given back.
    """

    def __init__(self, choices: int = 1) -> None:
        self._pending = b""
        self._unfinished = choices
        self._has_events = False
        self.ended = False
        self.fault: UpstreamError | None = None

    def feed(self, chunk: bytes) -> bytes:
        """A block of one or more whole events, or nothing yet."""
        data = self._pending + chunk if self._pending else chunk
        end = end_of_last_event(data)
        block, self._pending = data[:end], data[end:]
        if len(self._pending) > MOST_BYTES:
            self.fault = nonsense("An event of the upstream's answer is too long")
        return self._judged(block) if block else b""

    def finish(self) -> bytes:
        """The last block, once the body has ended; there is always a ``[DONE]`` in it."""
        if self.ended or self.fault is not None:
            return b""
        rest, self._pending = self._pending.rstrip(b"\r\n"), b""
        # some leave out the blank line, or any line end, behind their last event
        block = self._judged(rest + b"\n\n") if rest else b""
        if self.ended:
            return block
        if self.fault is None and self._unfinished > 0:
            self.fault = nonsense("The upstream's answer was cut off before its end")
        if self.fault is not None:
            return b""
        self.ended = True
        return block + DONE_EVENT

    def _judged(self, block: bytes) -> bytes:
        self._unfinished -= block.count(FINISHES[0]) + block.count(FINISHES[1])
        if block.count(b"{") != block.count(b"}") or _reports_error(block) or not is_utf8(block):
            return self._sound_part(block)
        if not self._has_events:
            self._has_events = block.find(b"{") >= 0
        done = find_done(block)
        if done < 0:
            return block
        if not self._has_events:
            self.fault = nonsense("The upstream's answer is empty")
            return b""
        self.ended = True
        return block[: end_of_first_event(block, done)]

    def _sound_part(self, block: bytes) -> bytes:
        """The block up to its first bad event, or to its end of the stream; what follows that is dropped."""
        at = 0
        while at < len(block):
            end = end_of_first_event(block, at)
            data = event_data(block[at:end])
            if data == DONE:
                self.ended = True
                return block[:end]
            self.fault = _fault_of(data)
            if self.fault is not None:
                return block[:at]
            at = end
        return block


def find_done(block: bytes) -> int:
    """Where the line ``data: [DONE]`` begins, which ends a stream; -1 where it is not."""
    # a search for the bytes and a look before them: a regular expression took longer than the rest of the judging
    at = block.rfind(DONE)
    while at >= 0:
        line = max(block.rfind(b"\n", 0, at), block.rfind(b"\r", 0, at)) + 1
        if block[line:at] in (b"data: ", b"data:"):
            return line
        at = block.rfind(DONE, 0, at)
    return -1


def is_utf8(data: bytes) -> bool:
    """Whether JSON of these bytes can be read by every client."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def whole_json(body: bytes) -> bytes:
    """The body of a whole answer. Raises UpstreamError where it is no JSON object, or reports an error."""
    if not is_utf8(body):
        raise nonsense("The upstream's answer is not UTF-8")
    text = body.strip()
    balanced = text[:1] == b"{" and text[-1:] == b"}" and text.count(b"{") == text.count(b"}")
    if not balanced or _reports_error(text):
        fault = _fault_of(text) if text else nonsense("The upstream's answer is empty")
        if fault is not None:
            raise fault
    return body


def is_silent(block: bytes) -> bool:
    """Whether a block says nothing yet: the role, or what a filter made of the prompt. It is no first delta."""
    if SAYS_SOMETHING.search(block) or block.find(DONE) >= 0:
        return False
    at = 0
    while at < len(block):
        end = end_of_first_event(block, at)
        data = event_data(block[at:end])
        if data and not _is_silent(data):
            return False
        at = end
    return True


def event_data(event: bytes) -> bytes:
    """The data of one event, its lines joined by LF; empty for a comment."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and event.find(b"\r") < 0:
        return event[6:-2]  # as nearly all are
    values = [line[5:].removeprefix(b" ") for line in LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(values)


def _is_silent(data: bytes) -> bool:
    try:
        event = json.loads(data)
    except ValueError:
        return False
    if not isinstance(event, dict) or not isinstance(event.get("choices"), list) or event.get("usage"):
        return False
    return all(_says_nothing(choice) for choice in event["choices"])


def _says_nothing(choice: Any) -> bool:
    delta = choice.get("delta") if isinstance(choice, dict) else None
    if not isinstance(delta, dict) or choice.get("finish_reason"):
        return False
    return all(name in SILENT and (name == "role" or not value) for name, value in delta.items())


def _fault_of(data: bytes) -> UpstreamError | None:
    if not data:
        return None
    try:
        event = parsed_object(data)
    except UpstreamError as fault:
        return fault
    choices = event.get("choices")
    failed = [c for c in choices if isinstance(c, dict) and c.get("error")] if isinstance(choices, list) else []
    if failed:
        return nonsense("The upstream reported an error in its answer")
    return None


def _reports_error(data: bytes) -> bool:
    return data.find(b'"error"') >= 0 and ERROR_KEY.search(data) is not None


def end_of_first_event(data: bytes, start: int) -> int:
    """The index behind the first event from ``start`` on."""
    end = data.find(b"\n\n", start, start + NEAR_BYTES)
    if end >= 0 and data.find(b"\r", start, end) < 0:
        return end + 2
    match = EVENT_END.search(data, start)
    return match.end() if match else len(data)


def end_of_last_event(data: bytes) -> int:
    """The index behind the last blank line; 0 where there is none."""
    end = data.rfind(b"\n\n")
    end = end + 2 if end >= 0 else 0
    if data.find(b"\r") >= 0:
        # where CR CR is the half of something longer, the LF left over is a blank line more, which means nothing
        for blank in (b"\r\n\r\n", b"\r\r", b"\n\r\n"):
            at = data.rfind(blank)
            if at >= 0:
                end = max(end, at + len(blank))
    return end


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


INPUT = re.compile(rb'"input_tokens"\s*:\s*(\d{1,12})')
WRITTEN = re.compile(rb'"cache_creation_input_tokens"\s*:\s*(\d{1,12})')
CACHED = re.compile(rb'"cache_read_input_tokens"\s*:\s*(\d{1,12})')
OUTPUT = re.compile(rb'"output_tokens"\s*:\s*(\d{1,12})')


class MessageBlocks(ResponseBlocks):
    """As ResponseBlocks: a stream ends with ``message_stop``, and begins to answer behind ``message_start``."""

    end = re.compile(NAMED + rb"message_stop\b")
    failed = re.compile(rb"(?!)")
    prelude = re.compile(NAMED + rb"(?:message_start|ping)\b")


class MessageUsage:
    """Notes the usage of a message on the call's record: input at its beginning, output at its end."""

    def __init__(self, record: CallRecord | None) -> None:
        self._record = record
        self._known = {INPUT: 0, WRITTEN: 0, CACHED: 0, OUTPUT: 0}

    def read(self, block: bytes) -> bytes:
        """The block as it is."""
        if self._record is not None and block.find(b'"usage"') >= 0:
            for name in self._known:
                if found := name.findall(block):
                    self._known[name] = int(found[-1])
            prompt = self._known[INPUT] + self._known[WRITTEN] + self._known[CACHED]
            self._record.usage = Usage(prompt, self._known[OUTPUT], self._known[CACHED])
        return block
