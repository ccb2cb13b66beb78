"""Blocks of events: whole and byte for byte, whatever the chunks; faults are found, and nothing that looks like one."""

import json
from typing import Any

import pytest

from apps.core.errors import UpstreamError
from apps.gateway.upstream.event_blocks import MOST_BYTES, EventBlocks, is_silent, whole_json


def event(data: Any, end: bytes = b"\n") -> bytes:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return b"data: " + text + end + end


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}]}


def run(*chunks: bytes) -> tuple[bytes, EventBlocks]:
    """What was given back of chunks and an end, and how it ended."""
    blocks, out = EventBlocks(), b""
    for chunk in chunks:
        if blocks.ended or blocks.fault:
            break
        out += blocks.feed(chunk)
    if not blocks.ended:
        out += blocks.finish()
    return out, blocks


DONE = b"[DONE]"
NASTY = [
    'the "error": {"message": 1}',
    "data: [DONE]",
    "\ndata: [DONE]\n\n",
    "{{{{",
    "}}",
    '"error": [',
    "\r\n\r\n",
    "\u2028\u2029\x85",
    "Größe 🎉",
    'error: {"error":',
]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_cut_at_every_byte_the_same_bytes_come_out(end: bytes) -> None:
    stream = b"".join(event(said(text), end) for text in ["a", "b\n\nc", NASTY[0], "ü"]) + event(DONE, end)
    for at in range(len(stream) + 1):
        out, blocks = run(stream[:at], stream[at:])
        assert (out.rstrip(b"\n"), blocks.ended, blocks.fault) == (stream.rstrip(b"\n"), True, None)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_byte_by_byte_every_block_is_whole(end: bytes) -> None:
    stream = event(said("a"), end) + event(said("b"), end) + event(DONE, end)
    blocks = EventBlocks()
    given = [blocks.feed(stream[i : i + 1]) for i in range(len(stream))]
    full = [block for block in given if block.strip()]
    assert len(full) == 3
    assert all(block.startswith(b"data: ") or block.startswith(b"\ndata: ") for block in full)
    assert blocks.ended


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_a_model_says_is_never_a_fault_and_never_an_end(text: str, ascii_only: bool) -> None:
    data = json.dumps(said(text), ensure_ascii=ascii_only).encode()
    out, blocks = run(event(data), event(said("after")), event(DONE))
    assert out == event(data) + event(said("after")) + event(DONE)
    assert (blocks.ended, blocks.fault) == (True, None)


def test_unknown_fields_comments_and_named_events_pass() -> None:
    stream = b": ping\n\nevent: x\nid: 1\nretry: 5\n" + event({"error": None, "future": [1]}) + event(DONE)
    out, blocks = run(stream)
    assert (out, blocks.fault) == (stream, None)


def test_what_comes_behind_the_end_is_dropped() -> None:
    out, blocks = run(event(said("a")) + event(DONE) + event(said("late")))
    assert out == event(said("a")) + event(DONE)
    assert blocks.ended


FAULTS = {
    "error": event({"error": {"message": "secret"}}),
    "error text": event({"error": "overloaded"}),
    "error in choice": event({"choices": [{"error": {"code": 502}, "delta": {}}]}),
    "truncated": event(b'{"id": "chatcmpl", "choi'),
    "not json": event(b"{nonsense}{"),
    "not an object": event(b"[{]"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("glued", [True, False])
def test_events_before_a_fault_come_out_and_none_behind_it(name: str, glued: bool) -> None:
    good, bad, tail = event(said("a")), FAULTS[name], event(said("b")) + event(DONE)
    out, blocks = run(good + bad + tail) if glued else run(good, bad, tail)
    assert out == good
    assert isinstance(blocks.fault, UpstreamError)
    assert not blocks.ended
    assert "secret" not in blocks.fault.message
    assert blocks.fault.details == {"upstream_status": 200}


@pytest.mark.parametrize("tail", [b"", b"data: {", b"data: {\n"])
def test_a_stream_without_its_end_was_cut(tail: bytes) -> None:
    out, blocks = run(event(said("a")), tail)
    assert out == event(said("a"))
    assert isinstance(blocks.fault, UpstreamError)


def test_an_event_without_end_is_not_collected_for_ever() -> None:
    blocks = EventBlocks()
    chunk = b"x" * (MOST_BYTES // 4)
    for _ in range(5):
        assert blocks.feed(chunk) == b""
    assert blocks.fault is not None


@pytest.mark.parametrize(
    "body",
    [b"{}", b' {"a": "}{"} \n', b'{"error": null}', json.dumps(said(NASTY[0])).encode(), b'{"a": {"error": {"b": 1}}}'],
)
def test_a_whole_answer_passes_as_it_is(body: bytes) -> None:
    assert whole_json(body) is body


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"[]", b"null", b"<html>", b'{"a": 1', b'{"error": {"m": 1}}', b'{"id":1,"error":"x"}', b'{"a"}{'],
)
def test_anything_else_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        whole_json(body)


@pytest.mark.parametrize(
    "delta", [{"role": "assistant"}, {"role": "assistant", "content": ""}, {"content": None, "refusal": None}, {}]
)
def test_a_role_is_no_first_delta(delta: dict[str, Any]) -> None:
    assert is_silent(event({"choices": [{"delta": delta, "finish_reason": None}]}))


@pytest.mark.parametrize(
    "block",
    [
        event(said("a")),
        event(said("", tool_calls=[{"index": 0}])),
        event(said("", reasoning_content="hm")),
        event(said("", future="x")),
        event({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        event({"choices": [], "usage": {"prompt_tokens": 1}}),
        event({"type": "response.created"}),
        event(DONE),
        event(b"{broken"),
    ],
)
def test_everything_else_is(block: bytes) -> None:
    assert not is_silent(block)
    assert not is_silent(event(said("", role="assistant")) + block)


def test_what_a_filter_made_of_the_prompt_is_no_first_delta() -> None:
    assert is_silent(b": hello\n\n" + event({"choices": [], "prompt_filter_results": [{"severity": "safe"}]}))
