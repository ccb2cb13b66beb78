"""Server-sent events: bytes in, events out, after the HTML standard (9.2.6); and an event of JSON as bytes.

Only CR, LF and CRLF end a line; U+2028 and its like, at which ``str.splitlines`` also splits, do not.

Characters that an upstream cut in two: JSON escapes carry UTF-16, so an emoji's halves may come in two deltas.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LINE_END = re.compile(rb"\r\n|\r|\n")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


# json.dumps makes an encoder anew at each call that does not take its defaults
_encode = json.JSONEncoder(ensure_ascii=False).encode


def json_bytes(data: Any) -> bytes:
    """UTF-8, its characters as they are. Raises what json.dumps raises."""
    return _encode(data).encode()


def json_event(data: Any, kind: str = "") -> bytes:
    """One event with JSON in it, of type ``kind``; without one it is a message."""
    return b"%sdata: %s\n\n" % (b"event: %s\n" % kind.encode() if kind else b"", _encode(data).encode())


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One dispatched event; ``data`` is UTF-8 as it came, its lines joined by LF."""

    type: str
    data: bytes


class EventStreamDecoder:
    """Feed it chunks as they arrive; an event cut off by the end of the stream is never dispatched."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._type = b""
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if chunk.endswith(b"\r"):
            self._after_cr = True
        first, *rest = LINE_END.split(chunk)
        self._line.append(first)
        for following in rest:
            event = self._take(b"".join(self._line))
            self._line = [following]
            if event:
                yield event

    def _take(self, line: bytes) -> ServerSentEvent | None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._type = value
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        data, kind = self._data, self._type
        self._data, self._type = [], b""
        if not data:
            return None
        return ServerSentEvent(kind.decode("utf-8", "replace") or "message", b"\n".join(data))


class SurrogateJoiner:
    """Holds back a leading half until its other half comes; a half without one becomes U+FFFD."""

    def __init__(self) -> None:
        self._held = ""

    def join(self, text: str) -> str:
        """The text that is whole so far; pure Unicode, so that it always encodes."""
        if not self._held and text.isascii():
            return text
        text = self._held + text
        self._held = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return _whole(text[:-1] if self._held else text)

    def flush(self) -> str:
        held, self._held = self._held, ""
        return _whole(held)


def _whole(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
