"""The event stream of a Responses upstream: whole events, its own ends, and nothing before an answer has begun."""

import json
from collections.abc import Iterator, Sequence

import pytest

from apps.core.errors import UpstreamError
from apps.gateway.upstream.event_blocks import ResponseBlocks


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


CREATED = event("response.created", response={"error": None, "tools": [{"name": "response.failed"}]})
PROGRESS = event("response.in_progress", response={"error": None})
DELTA = event("response.output_text.delta", delta='{"error": {"x": 1}} event: response.completed')
COMPLETED = event("response.completed", response={"status": "completed"})
FAILED = event("response.failed", response={"error": {"code": "server_error", "message": "no"}})
ERROR = event("error", code="server_error", message="no")


def reading(chunks: Sequence[bytes]) -> Iterator[bytes]:
    """The blocks, as a reader takes them who stops at the end and at the first fault."""
    blocks = ResponseBlocks()
    for chunk in chunks:
        block = blocks.feed(chunk)
        if block:
            yield block
        if blocks.ended:
            return
        if blocks.fault is not None:
            raise blocks.fault
    if block := blocks.finish():
        yield block
    if blocks.fault is not None:
        raise blocks.fault


def read(*chunks: bytes) -> list[bytes]:
    return list(reading(chunks))


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_the_bytes_pass_through_however_they_are_cut(size: int, line_end: bytes) -> None:
    stream = (CREATED + PROGRESS + b": ping\n\n" + DELTA + DELTA + COMPLETED).replace(b"\n", line_end)
    chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
    # where CR LF is cut in two, the LF may be left over behind the last event
    assert b"".join(read(*chunks)).rstrip() == stream.rstrip()


def test_what_comes_before_the_first_item_is_held_back_until_it_comes() -> None:
    blocks = ResponseBlocks()
    assert blocks.feed(CREATED) == b""
    assert blocks.feed(PROGRESS) == b""
    assert blocks.feed(DELTA) == CREATED + PROGRESS + DELTA


@pytest.mark.parametrize("last", ["completed", "incomplete"])
def test_a_response_ends_with_its_last_event(last: str) -> None:
    end = event(f"response.{last}", response={})
    assert b"".join(read(DELTA, end + b"data: [DONE]\n\n")) == DELTA + end


def test_an_upstream_that_writes_no_event_lines_is_understood() -> None:
    end = b'data: {"type":"response.completed","response":{}}\n\n'
    assert read(DELTA, end) == [DELTA, end]


def test_a_failure_after_the_first_item_is_the_upstreams_own_end() -> None:
    assert read(CREATED + DELTA, FAILED) == [CREATED + DELTA, FAILED]


@pytest.mark.parametrize("fault", [FAILED, ERROR, b'data: {"error": {"message": "no"}}\n\n'])
def test_a_failure_before_the_first_item_is_an_error_so_that_others_can_be_asked(fault: bytes) -> None:
    with pytest.raises(UpstreamError):
        read(CREATED, fault)


@pytest.mark.parametrize("fault", [ERROR, b'data: {"error": "no"}\n\n', b'data: {"type": "respo\n\n', b""])
def test_what_is_sound_goes_out_before_the_fault_is_raised(fault: bytes) -> None:
    got = []
    with pytest.raises(UpstreamError):
        for block in reading([CREATED + DELTA + fault]):
            got.append(block)
    assert got == [CREATED + DELTA]


def test_half_an_event_never_goes_out() -> None:
    got = []
    with pytest.raises(UpstreamError):
        for block in reading([DELTA, COMPLETED[:-4]]):
            got.append(block)
    assert got == [DELTA]


@pytest.mark.parametrize("missing", [1, 2])
def test_the_last_event_may_lack_its_line_ends(missing: int) -> None:
    assert read(DELTA, COMPLETED[:-missing]) == [DELTA, COMPLETED]


def test_an_event_that_never_ends_is_given_up() -> None:
    with pytest.raises(UpstreamError, match="too long"):
        read(*[b"data: " + b"x" * 1_000_000] * 20)
