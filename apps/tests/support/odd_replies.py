"""What an upstream with odd manners answers, by name: to a call that is streamed, and to one that is not."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from apps.tests.support.odd_upstream import (
    ALIVE,
    CLOSE,
    DONE,
    HELLO,
    ROLE,
    STOP,
    STREAM_HEAD,
    TEXT,
    USAGE,
    Reply,
    answered,
    chunk,
    chunked,
    event,
    streamed,
    whole,
)

SAID = "Hello there"
PAUSE = 0.3
# longer than the silence that the tests allow, in steps that are shorter
SLOW: list[bytes | float] = [step for _ in range(6) for step in (ALIVE, PAUSE)]
SILENT = 30.0
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
PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'
CALLED = chunk(finish="tool_calls")


@dataclass(frozen=True, slots=True)
class Case:
    """``said`` is the text of an answer that ends well; None: any. ``must_fail``: no answer may end well."""

    stream: Reply
    whole: Reply
    said: str | None = SAID
    must_fail: bool = False


def raw(*parts: bytes | float) -> Reply:
    return list(parts)


def with_head(*lines: str, body: bytes = b"", version: str = "HTTP/1.1") -> Reply:
    """An answer with these lines behind its first."""
    return [b"\r\n".join([version.encode() + b" 200 OK", *(line.encode() for line in lines), b"", body])]


def both(stream: Reply, whole_reply: Reply | None = None, said: str | None = SAID, must_fail: bool = False) -> Case:
    """By default a call that is not streamed is answered as it should be."""
    return Case(stream, answered(whole()) if whole_reply is None else whole_reply, said, must_fail)


def either(reply: Reply, said: str | None = SAID) -> Case:
    """The same bytes, whatever was asked for; they are no answer."""
    return Case(reply, reply, said, must_fail=True)


def tool(index: Any, id: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    piece: dict[str, Any] = {"type": "function", "function": function}
    if index != "none":
        piece["index"] = index
    return {**piece, "id": id} if id is not None else piece


def calling(*deltas: list[dict[str, Any]], finish: bytes = CALLED) -> Case:
    """Calls of tools in pieces; in a whole answer the pieces with an id are the calls."""
    pieces = [chunk({"tool_calls": one}) for one in deltas]
    calls = [piece for one in deltas for piece in one if "id" in piece]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return both(chunked(ROLE, *pieces, finish, USAGE, DONE), answered(whole(message)), None)


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


def _tools() -> dict[str, Case]:
    paris, rome = tool(0, "a", "weather", PARIS), tool(0, "b", "weather", ROME)
    return {
        "index-0-for-all": calling([paris], [rome]),
        "index-0-in-one-delta": calling([paris, rome]),
        "no-index": calling([tool("none", "a", "weather", PARIS)], [tool("none", "b", "weather", ROME)]),
        "null-index": calling([tool(None, "a", "weather", PARIS), tool(None, "b", "weather", ROME)]),
        "late-name": calling(
            [tool(0, "a", None, None)], [tool(0, None, "weather", None)], [tool(0, None, None, PARIS)]
        ),
        "late-id": calling([tool(0, None, "weather", "")], [tool(0, "a", None, PARIS)]),
        "name-again": calling([tool(0, "a", "weather", "")], [tool(0, "a", "weather", PARIS)]),
        "null-arguments": calling([{**tool(0, "a", "now", None), "function": {"name": "now", "arguments": None}}]),
        "empty-arguments": calling([tool(0, "a", "now", "")]),
        "object-arguments": calling([tool(0, "a", "weather", json.loads(PARIS))]),
        "finish-stop": calling([paris], finish=STOP),
        "no-function": calling([{"index": 0, "id": "a", "type": "function"}]),
        "calls-of-text": both(
            chunked(ROLE, chunk({"tool_calls": "weather"}), CALLED, DONE),
            answered(whole({"role": "assistant", "content": None, "tool_calls": "weather"})),
            None,
        ),
    }


def _streams() -> dict[str, Case]:
    """Odd streams; the whole answers are as they should be."""
    hello = HELLO + USAGE + DONE
    odd_text = "你好🌍👩‍👩‍👧é\u2028x"
    unusual = b"".join([ROLE, chunk({"content": odd_text}), STOP, DONE])
    numbered = b"".join(
        b"event: message\nid: %d\nretry: 3000\n%b" % (i, one) for i, one in enumerate([ROLE, *TEXT, STOP])
    )
    lines = b"".join(
        b"".join(b"data: " + line + b"\n" for line in json.dumps(json.loads(one[6:]), indent=1).encode().split(b"\n"))
        + b"\n"
        for one in [ROLE, *TEXT, STOP]
    )
    filtered = event({"choices": [], "id": "", "model": "", "prompt_filter_results": [{"prompt_index": 0}]})
    offsets = event({"id": "", "choices": [{"index": 0, "finish_reason": None, "content_filter_results": {}}]})
    cases: Mapping[str, Reply] = {
        "no-done": chunked(HELLO, USAGE),
        "no-done-close": streamed(HELLO, USAGE),
        "done-without-newline": chunked(HELLO, USAGE, b"data: [DONE]"),
        "done-with-one-newline": chunked(HELLO, USAGE, b"data: [DONE]\n"),
        "no-space": chunked(hello.replace(b"data: ", b"data:")),
        "crlf": chunked(*[bytes([byte]) for byte in hello.replace(b"\n", b"\r\n")]),
        "cr": chunked(hello.replace(b"\n", b"\r")),
        "comments": chunked(b": PROCESSING\n\n" * 3, ROLE, TEXT[0], b": PROCESSING\n\n", TEXT[1], STOP, USAGE, DONE),
        "slow-start": streamed(*SLOW, hello),
        "role-then-slow": streamed(ROLE, *SLOW, *TEXT, STOP, USAGE, DONE),
        "slow-in-the-middle": streamed(ROLE, TEXT[0], *SLOW, TEXT[1], STOP, USAGE, DONE),
        "slow": streamed(ROLE, PAUSE, TEXT[0], PAUSE, TEXT[1], PAUSE, STOP, PAUSE, DONE),
        "filter-first": chunked(filtered, ROLE, *TEXT, STOP, offsets, USAGE, DONE),
        "upper-case-type": streamed(
            hello, head=b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; Charset=UTF-8\r\n"
        ),
        "no-type": streamed(hello, head=b"HTTP/1.1 200 OK\r\n"),
        "plain-type": streamed(hello, head=b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"),
        "names-of-events": chunked(numbered, DONE),
        "many-lines": chunked(lines, DONE),
        "json-not-events": answered(whole()),
        "empty-events": chunked(b"data:\n\ndata: \n\n", HELLO, b"data:\n\n", DONE),
        "more-behind-done": chunked(hello, b": bye\n\n", b'data: {"x": 1}\n\n'),
        "length-of-a-stream": answered(hello, kind="text/event-stream"),
        "finish-with-text": chunked(ROLE, TEXT[0], chunk({"content": "lo there"}, "stop"), USAGE, DONE),
        "finish-twice": chunked(HELLO, STOP, USAGE, DONE),
    }
    broken: Mapping[str, Reply] = {
        "error-in-the-middle": chunked(ROLE, TEXT[0], event({"error": {"message": "boom", "code": 502}})),
        "error-event": chunked(ROLE, TEXT[0], b'event: error\ndata: {"message": "boom"}\n\n'),
        "cut": streamed(ROLE, *TEXT),
        "cut-in-an-event": streamed(ROLE, TEXT[0], TEXT[1][:20]),
        "cut-in-a-chunk": [STREAM_HEAD + b"Transfer-Encoding: chunked\r\n" + CLOSE + b"fff\r\n" + HELLO[:90]],
        "silent-in-the-middle": streamed(ROLE, TEXT[0], SILENT),
        "no-json": chunked(ROLE, TEXT[0], b"data: {no\n\n", STOP, DONE),
        "nothing": chunked(),
        "done-alone": chunked(DONE),
    }
    return {
        **{name: both(reply) for name, reply in cases.items()},
        **{name: Case(reply, answered(whole())) for name, reply in broken.items()},
        "bytes-one-by-one": both(chunked(*[bytes([byte]) for byte in unusual]), said=None),
        "large-event": both(chunked(ROLE, chunk({"content": "x" * 300_000}), STOP, DONE), said=None),
    }


BROKEN_STREAMS = frozenset(
    {
        *("error-in-the-middle", "error-event", "cut", "cut-in-an-event", "cut-in-a-chunk", "silent-in-the-middle"),
        *("no-json", "nothing", "done-alone", "words-and-no-utf-8"),
    }
)
BROKEN_WHOLES = frozenset({"no-choices"})
CASES: dict[str, Case] = {**_statuses(), **_waits(), **_heads(), **_wholes(), **_tools(), **_streams()}
