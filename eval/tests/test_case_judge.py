"""The judge finds each thing that can be wrong with an answer, and nothing where nothing is."""

import json
from typing import Any

import httpx2
import pytest

from eval.case_call import Exchange
from eval.case_judge import at, problems
from eval.case_schema import Expect

ERROR = {"code": "TIMEOUT", "message": "Too late", "status": 504, "field": None, "details": {"attempts": 3}}
STREAM = b'data: a\n\nevent: delta\ndata: {"text": "\\rb"}\n\nevent: done\ndata: {"finish_reason": "stop"}\n\n'


def answer(body: bytes = b"", status: int = 200, kind: str = "application/json", **rest: Any) -> Exchange:
    headers = httpx2.Headers({"content-type": kind, **rest.pop("headers", {})})
    return Exchange(status, headers, body, rest.pop("seconds", 0.01), **rest)


def judge(expected: dict[str, Any], exchange: Exchange, calls: int | None = None) -> str:
    return "; ".join(problems(Expect.model_validate({"status": 200, **expected}), exchange, calls))


def envelope(beside: dict[str, Any] | None = None, **changed: Any) -> bytes:
    return json.dumps({"error": {**ERROR, **changed}, **(beside or {})}).encode()


def timed_out(**expected: Any) -> dict[str, Any]:
    return {"status": 504, "error": {"code": "TIMEOUT", **expected}}


def test_a_right_answer_has_no_problem() -> None:
    assert judge(timed_out(details={"attempts": 3}), answer(envelope(), 504)) == ""
    assert judge(timed_out(beside=["status"]), answer(envelope({"status": "no"}), 504)) == ""
    openai: dict[str, Any] = {"type": "timeout", "param": None, "code": "late", "error_code": "TIMEOUT"}
    assert judge(timed_out(openai="late"), answer(envelope(**openai), 504)) == ""
    streamed = {"stream": {"terminal": "done", "min_deltas": 2, "text": {"equals": "a\rb"}}}
    assert judge(streamed, answer(STREAM, kind="text/event-stream")) == ""
    assert judge({"json": {"/a/0": 1}, "upstream_calls": 2}, answer(b'{"a": [1]}'), 2) == ""


@pytest.mark.parametrize(
    ("expected", "exchange", "found"),
    [
        ({}, answer(status=500), "status is 500"),
        ({}, answer(cut="ReadError: reset"), "the connection broke"),
        ({"latency": "fast"}, answer(seconds=0.4), "took 0.40 s"),
        ({"upstream_calls": 1}, answer(), "called None times"),
        ({"headers": {"x-a": {"equals": "1"}}}, answer(), "x-a is missing"),
        ({"headers": {"x-a": None}}, answer(headers={"x-a": "1"}), "x-a is there"),
        ({"headers": {"x-a": {"regex": "^2$"}}}, answer(headers={"x-a": "1"}), "does not match"),
        ({"body": {"excludes": ["key"]}}, answer(b"the key"), "contains 'key'"),
        ({"body": {"min_length": 9}}, answer(b"short"), "5 characters"),
        ({"json": {"/a": 1}}, answer(b"{"), "not JSON"),
        ({"json": {"/a": 1}}, answer(b'{"a": true}'), "/a is True"),
        ({"json": {"/a": 1}}, answer(b'{"a": 1}', kind="text/plain"), "not application/json"),
        ({"checks": {"/a": {}}}, answer(b'{"a": 1}'), "/a is 1"),
        ({"schema": {"required": ["b"]}}, answer(b"{}"), "'b' is a required property"),
        (timed_out(), answer(envelope(code="timeout"), 504), "the envelope"),
        (timed_out(), answer(b'{"error": "flat"}', 504), "the envelope"),
        (timed_out(), answer(envelope(type="timeout"), 504), "the envelope"),
        (timed_out(openai="late"), answer(envelope(), 504), "'type' is a required property"),
        (timed_out(), answer(envelope({"more": 1}), 504), "beside the error stands ['more']"),
        (timed_out(), answer(envelope(status=500), 504), "error.status is 500"),
        (timed_out(field="prompt"), answer(envelope(), 504), "error.field is None"),
        (timed_out(message={"equals": "No"}), answer(envelope(), 504), "error.message is"),
        (timed_out(details={"attempts": 2}), answer(envelope(), 504), "details.attempts is 3"),
    ],
)
def test_a_wrong_answer_is_found(expected: dict[str, Any], exchange: Exchange, found: str) -> None:
    assert found in judge(expected, exchange)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"data: a\n\n", "not with one done"),
        (STREAM + b"event: done\ndata: {}\n\n", "not with one done"),
        (STREAM + b"data: after\n\n", "not with one done"),
        (b"event: error\ndata: {}\n\n", "not with one done"),
        (b"data: a\n\nevent: done\ndata: {}\n\n", "1 deltas"),
        (b"data: a\n\ndata: x\n\nevent: done\ndata: {}\n\n", "the stream's text"),
        (STREAM.replace(b"finish_reason", b"finish"), "the done event"),
        (b"data: \xff\n\n", "not UTF-8"),
    ],
)
def test_a_wrong_stream_is_found(body: bytes, found: str) -> None:
    done = {"required": ["finish_reason"]}
    stream = {"terminal": "done", "min_deltas": 2, "text": {"equals": "a\rb"}, "done": done}
    assert found in judge({"stream": stream}, answer(body, kind="text/event-stream"))


def test_an_error_event_is_judged_as_an_envelope() -> None:
    stream = {"stream": {"terminal": "error", "error": {"code": "TIMEOUT"}}}
    body = b"event: error\ndata: " + envelope() + b"\n\n"
    assert judge(stream, answer(body, kind="text/event-stream")) == ""
    assert "the envelope" in judge(stream, answer(b"event: error\ndata: {}\n\n", kind="text/event-stream"))


def test_pointers_follow_rfc_6901() -> None:
    data = {"a/b": {"m~n": [5]}}
    assert at(data, "/a~1b/m~0n/0") == 5
    assert at(data, "") == data
