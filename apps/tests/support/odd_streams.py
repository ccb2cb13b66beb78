"""Odd streams and odd calls of tools, by name."""

import json
from collections.abc import Mapping
from typing import Any

from apps.tests.support.odd_cases import Case, both
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

PAUSE = 0.3
# longer than the silence that the tests allow, in steps that are shorter
SLOW: list[bytes | float] = [step for _ in range(6) for step in (ALIVE, PAUSE)]
SILENT = 30.0
PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'
CALLED = chunk(finish="tool_calls")


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


def tool_cases() -> dict[str, Case]:
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


def stream_cases() -> dict[str, Case]:
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
