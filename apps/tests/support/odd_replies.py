"""What an upstream with odd manners answers, by name: to a call that is streamed, and to one that is not."""

import gzip
import json
from email.utils import formatdate

from apps.tests.support.odd_cases import SAID, Case, both, either, raw, with_head
from apps.tests.support.odd_streams import (
    SILENT,
    stream_cases,
    tool_cases,
)
from apps.tests.support.odd_upstream import (
    CLOSE,
    DONE,
    HELLO,
    ROLE,
    STOP,
    STREAM_HEAD,
    TEXT,
    USAGE,
    answered,
    chunk,
    chunked,
    event,
    streamed,
    whole,
)

ELSEWHERE = "http://127.0.0.1:9/v1/elsewhere"
REFUSAL = json.dumps(
    {
        "error": {
            "message": "This model's maximum context length is 8192 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }
).encode()
STATUSES: tuple[int, ...] = (
    100,
    101,
    201,
    202,
    204,
    206,
    226,
    300,
    301,
    302,
    303,
    304,
    307,
    308,
    400,
    401,
    402,
    403,
    404,
    405,
    406,
)
STATUSES += (408, 409, 410, 411, 413, 414, 415, 418, 421, 422, 423, 425, 429, 431, 451, 499, 500, 501, 502, 503, 504)
STATUSES += (505, 507, 508, 511, 520, 524, 529, 599, 600, 999)
RETRY_AFTER = {
    "date": formatdate(4_000_000_000, usegmt=True),
    "fraction": "0.5",
    "negative": "-5",
    "word": "soon",
    "two": "1, 1",
    "empty": "",
    "overflow": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
    "year": "Wed, 21 Oct 99999 07:28:00 GMT",
    "exponent": "1e400",
    "asctime": "Thu Jan  1 00:00:00 1970",
    "zone": "Wed, 21 Oct 2026 07:28:00 +9999",
}


def _statuses() -> dict[str, Case]:
    found = {}
    for status in STATUSES:
        headers = (f"Location: {ELSEWHERE}",) if 300 <= status < 400 else ()
        body = whole() if 200 <= status < 300 else REFUSAL
        reply = answered(body, *headers, status=f"{status} X")
        found[f"status-{status}"] = Case(reply, reply, None, must_fail=not 200 <= status < 300)
    return found


def _waits() -> dict[str, Case]:
    return {
        f"wait-{name}": either(answered(b"{}", f"Retry-After: {value}", status="429 Too Many Requests"))
        for name, value in RETRY_AFTER.items()
    }


def _heads() -> dict[str, Case]:
    """Odd heads and framings, not streamed and streamed."""
    body, stream = whole(), HELLO + DONE
    squeezed, squeezed_stream = gzip.compress(body), gzip.compress(stream)
    length, stream_length = f"Content-Length: {len(body)}", f"Content-Length: {len(stream)}"
    kind, stream_kind = "Content-Type: application/json", "Content-Type: text/event-stream"
    close = "Connection: close"

    def behind(first: bytes) -> Case:
        return Case(
            [first, *streamed(HELLO, DONE)],
            [first, *answered(body)],
        )

    trailers = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n" + CLOSE
    traile = b"%x;ext=1\r\n%b\r\n0\r\nX-T: 1\r\n\r\n"
    return {
        "gzip": Case(
            with_head(stream_kind, "Content-Encoding: gzip", close, body=squeezed_stream),
            with_head(kind, "Content-Encoding: gzip", f"Content-Length: {len(squeezed)}", close, body=squeezed),
        ),
        "http-1.0": Case(
            with_head(stream_kind, body=stream, version="HTTP/1.0"), with_head(kind, body=body, version="HTTP/1.0")
        ),
        "continue-first": behind(b"HTTP/1.1 100 Continue\r\n\r\n"),
        "hints-first": behind(b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"),
        "trailers": Case(
            [trailers % b"text/event-stream" + traile % (len(stream), stream)],
            [trailers % b"application/json" + traile % (len(body), body)],
        ),
        "type-twice": Case(
            with_head(stream_kind, "content-type: text/event-stream; charset=utf-8", close, body=stream),
            with_head(kind, "content-type: application/json", length, close, body=body),
        ),
        "length-twice": Case(
            with_head(stream_kind, stream_length, stream_length, close, body=stream),
            with_head(kind, length, length, close, body=body),
        ),
        "bare-newlines": Case(
            [b"HTTP/1.1 200 OK\n%b\n%b\n\n%b" % (stream_kind.encode(), stream_length.encode(), stream)],
            [b"HTTP/1.1 200 OK\n%b\n%b\n\n%b" % (kind.encode(), length.encode(), body)],
        ),
        "space-before-the-body": Case(chunked(b"\n", b"\n", HELLO, DONE), chunked(b"\n", b"  \n", body)),
        "byte-order-mark": Case(chunked(b"\xef\xbb\xbf" + HELLO, DONE), answered(b"\xef\xbb\xbf" + body)),
        "not-http": either(raw(b"garbage without a head\r\n\r\n")),
        "no-head": either(raw()),
        "half-a-head": either(raw(b"HTTP/1.1 200 OK\r\nContent-Ty")),
        "endless-head": either(raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 20_000)),
        "two-lengths": either(with_head(kind, "Content-Length: 3", "Content-Length: 5", close, body=b"{}  ")),
        "negative-length": either(with_head(kind, "Content-Length: -1", close, body=body)),
        "bad-chunk": either(with_head(stream_kind, "Transfer-Encoding: chunked", close, body=b"zz\r\nno\r\n")),
        "html": either(answered(b"<html>upstream at 127.0.0.1 is broken</html>", kind="text/html")),
        "empty": either(answered(b"")),
        "array": either(answered(b"[]")),
        "null": either(answered(b"null")),
        "bad-gzip": either(with_head(kind, "Content-Encoding: gzip", length, close, body=body)),
        "unknown-encoding": either(with_head(kind, "Content-Encoding: x-odd", length, close, body=squeezed)),
        "short": Case(
            with_head(stream_kind, f"Content-Length: {len(HELLO) + 50}", close, body=HELLO),
            with_head(kind, f"Content-Length: {len(body) + 50}", close, body=body),
            must_fail=True,
        ),
        "dead": either(raw(SILENT)),
        "dead-behind-its-head": either([STREAM_HEAD + CLOSE, SILENT]),
    }


def _wholes() -> dict[str, Case]:
    """Odd contents of an answer, in both forms."""
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
    parts = [*thinking, {"type": "text", "text": SAID}]
    error = json.dumps({"error": {"message": "boom", "code": 500}}).encode()
    odd_usage = {"prompt_tokens": 7.0, "completion_tokens": None, "total_tokens": "9"}
    huge_usage = {"prompt_tokens": 1e300, "completion_tokens": -5, "total_tokens": 10**30}
    return {
        "plain": both(chunked(HELLO, USAGE, DONE)),
        "error-with-200": either(answered(error)),
        "no-finish": both(chunked(ROLE, *TEXT, DONE), answered(whole().replace(b'"stop"', b"null"))),
        "null-content": both(
            chunked(chunk({"role": "assistant", "content": None}), chunk({"content": None}), STOP, DONE),
            answered(whole({"role": "assistant", "content": None})),
            "",
        ),
        "no-choices": both(chunked(event({"id": "c", "choices": []}), DONE), answered(b'{"choices": []}'), ""),
        "choices-of-null": either(answered(b'{"choices": null}')),
        "no-message": either(answered(b'{"choices": [{"index": 0}]}'), None),
        "words-and-no-utf-8": both(
            chunked(ROLE, TEXT[0], chunk({"content": "QQ"}).replace(b"QQ", b"\xc3"), STOP, DONE)
        ),
        "numbers-for-text": both(
            chunked(ROLE, chunk({"content": 5}), STOP, DONE), answered(whole({"role": "assistant", "content": 5})), None
        ),
        "no-usage": both(chunked(HELLO, DONE), answered(whole(usage=False))),
        "odd-usage": both(
            chunked(HELLO, event({"choices": [], "usage": odd_usage}), DONE), answered(whole(usage=odd_usage))
        ),
        "huge-usage": both(
            chunked(HELLO, event({"choices": [], "usage": huge_usage}), DONE), answered(whole(usage=huge_usage))
        ),
        "usage-with-each": both(
            chunked(ROLE, TEXT[0], USAGE, TEXT[1], USAGE, STOP, USAGE, DONE),
        ),
        "thinking-parts": both(
            chunked(chunk({"role": "assistant", "content": thinking}), *TEXT, STOP, DONE),
            answered(whole({"role": "assistant", "content": parts})),
        ),
        "deep": both(
            chunked(ROLE, chunk({"content": "x"}), b"data: " + b"[" * 5000 + b"]" * 5000 + b"\n\n", STOP, DONE),
            answered(b'{"choices": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
            None,
        ),
        "not-a-number": both(
            chunked(HELLO, b'data: {"choices": [], "usage": {"prompt_tokens": NaN}}\n\n', DONE),
            answered(whole().replace(b": 7", b": NaN")),
            None,
        ),
        "half-a-character": both(
            chunked(ROLE, chunk({"content": "\ud83d"}), STOP, DONE),
            answered(whole({"role": "assistant", "content": "\ud83d"})),
            None,
        ),
        "no-utf-8": both(
            chunked(ROLE, chunk({"content": "QQ"}).replace(b"QQ", b"\xff\xfe"), STOP, DONE),
            answered(whole({"role": "assistant", "content": "QQ"}).replace(b"QQ", b"\xff\xfe")),
            None,
        ),
        "two-choices": both(
            chunked(
                chunk({"content": "A"}),
                chunk({"content": "B"}, index=1),
                chunk({}, "stop", 1),
                chunk({}, "length"),
                DONE,
            ),
            said=None,
        ),
    }


BROKEN_WHOLES = frozenset({"no-choices"})
CASES: dict[str, Case] = {**_statuses(), **_waits(), **_heads(), **_wholes(), **tool_cases(), **stream_cases()}
