"""The form of a line: JSON or words, one record one line, no key, no prompt, and nobody can forge one."""

import json
import logging
import re
import sys
from typing import Any

import pytest

from apps.api.src.http.middleware import access_log, request_id
from apps.api.src.observability.logs import LineFormatter
from apps.api.src.observability.request_line import Redactor, RequestLine, one_line
from apps.core.callers import ANONYMOUS
from apps.core.calls import CallRecord, Usage

KEY = "made-up-key-0123456789"
HOSTILE = "a\nb\r\x1b[31m\x85\u2028\x00c"
FORGED = '\n{"level":"info","event":"forged"}\n2026-01-01T00:00:00.000Z [info     ] forged'


def formatter(*, as_json: bool, **more: Any) -> LineFormatter:
    return LineFormatter(Redactor([KEY]), as_json=as_json, **more)


def record(message: Any, *values: Any, name: str = "some.library", exc_info: Any = None) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "", 0, message, values, exc_info)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    return made


def access(**changes: Any) -> logging.LogRecord:
    line = RequestLine("abc", "POST", "/v1/chat/completions", True, 200, 0.0123)
    for name, value in changes.items():
        setattr(line, name, value)
    return record(line, name=access_log.name)


def call(**changes: Any) -> CallRecord:
    return CallRecord(ANONYMOUS, "/v1/chat/completions", "asked", **changes)


def raised(text: str) -> Any:
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise ValueError(text) from error
    except ValueError:
        return sys.exc_info()


def test_a_librarys_record_is_one_json_object() -> None:
    line = json.loads(formatter(as_json=True).format(record("%s of %d", "one", 2)))
    assert line == {
        "timestamp": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "some.library",
        "request_id": "-",
        "event": "one of 2",
    }


def test_a_record_has_the_id_of_the_request_that_is_served() -> None:
    token = request_id.set("my-id")
    try:
        assert json.loads(formatter(as_json=True).format(record("x")))["request_id"] == "my-id"
        assert "request_id=my-id" in formatter(as_json=False).format(record("x"))
    finally:
        request_id.reset(token)


def test_an_access_line_says_what_was_asked_and_what_came_of_it() -> None:
    made = call(model="m", provider="p", usage=Usage(3, 4), cache="hit", outcome="TIMEOUT")
    line = json.loads(formatter(as_json=True).format(access(key_id="k1", calls=[made], trace="0" * 32)))
    assert line == {
        "timestamp": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "event": "POST /v1/chat/completions 200",
        "logger": "apps.access",
        "request_id": "abc",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "duration_ms": 12.3,
        "key_id": "k1",
        "model": "m",
        "provider": "p",
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "cache": "hit",
        "outcome": "TIMEOUT",
        "trace_id": "0" * 32,
    }


def test_an_access_line_in_words_has_the_same_and_the_form_of_every_other_line() -> None:
    made = call(model="m", usage=Usage(3, 0))
    words = formatter(as_json=False)
    line = words.format(access(calls=[made]))
    assert line == (
        "2023-11-14T22:13:20.250Z [info     ] POST /v1/chat/completions 200 12.3ms [apps.access] "
        "request_id=abc model=m prompt_tokens=3 completion_tokens=0"
    )
    other = words.format(record("hello"))
    assert other == "2023-11-14T22:13:20.250Z [warning  ] hello [some.library] request_id=-"


def test_on_a_terminal_lines_are_coloured() -> None:
    coloured = formatter(as_json=False, colors=True)
    assert all("\x1b[" in coloured.format(one) for one in (access(calls=[call(model="m")]), record("x")))


@pytest.mark.parametrize("as_json", [True, False])
def test_nothing_that_a_caller_sends_begins_a_line_or_talks_to_the_terminal(as_json: bool) -> None:
    made = formatter(as_json=as_json)
    hostile = call(model=FORGED + HOSTILE)
    written = [
        made.format(access(path="/x" + FORGED + HOSTILE, routed=False, method="GET" + FORGED, calls=[hostile])),
        made.format(record("said %s", FORGED + HOSTILE)),
        made.format(record("Prompt", name="x" + FORGED)),
    ]
    for line in written:
        assert len(line.splitlines()) == 1
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)
        assert line.startswith('{"' if as_json else "2023-11-14T")


@pytest.mark.parametrize("as_json", [True, False])
def test_keys_are_taken_out_of_whatever_holds_them(as_json: bool) -> None:
    made = formatter(as_json=as_json)
    texts = [
        f"key {KEY}!",
        "Authorization: Bearer abcdefgh12345678",
        '{"authorization": "abcdefgh12345678"}',
        "headers [(b'x-api-key', b'...')] X-API-Key=abcdefgh12345678",
        "bearer abcdefgh12345678",
        "sk-abcdefgh12345678",
        "ga_abcdefgh12345678",
        "cannot reach postgresql://me:abcdefgh12345678@db/name",
        "redis://:abcdefgh12345678@localhost",
        "GET /?api_key=abcdefgh12345678",
    ]
    secret = re.compile(f"{KEY[:8]}|abcdefgh")
    for text in texts:
        written = [
            made.format(record("%s", text)),
            made.format(access(path=text, routed=False, calls=[call(model=text)])),
            made.format(record("failed", exc_info=raised(text))),
        ]
        assert not [line for line in written if secret.search(line)]


def test_a_key_that_json_would_write_otherwise_is_found_in_both_forms() -> None:
    redact = Redactor(['ab"cd\\efgh'])
    assert redact('one ab"cd\\efgh two') == "one [redacted] two"
    assert redact(json.dumps({"k": 'ab"cd\\efgh'})) == '{"k": "[redacted]"}'


def test_the_message_of_an_exception_in_a_request_is_withheld_unless_prompts_may_be_logged() -> None:
    token = request_id.set("my-id")
    try:
        quiet = formatter(as_json=True).format(record("Crash", exc_info=raised("the prompt")))
        told = formatter(as_json=True, messages=True).format(record("Crash", exc_info=raised("the prompt")))
    finally:
        request_id.reset(token)
    assert "the prompt" not in quiet
    assert re.search(r"KeyError.*and then.*ValueError", json.loads(quiet)["exception"], re.DOTALL)
    assert "in raised" in json.loads(quiet)["exception"]
    assert told.count("the prompt") == 2


def test_what_asyncio_reports_may_be_of_any_request() -> None:
    reported = formatter(as_json=True).format(record("Task", name="asyncio", exc_info=raised("the prompt")))
    assert "the prompt" not in reported


def test_outside_of_requests_an_exception_says_what_it_is() -> None:
    assert "no such file" in formatter(as_json=True).format(record("Loading", exc_info=raised("no such file")))


def test_a_group_of_exceptions_shows_each() -> None:
    group = ExceptionGroup("several", [ValueError("one"), TypeError("two")])
    text = json.loads(formatter(as_json=True).format(record("x", exc_info=(type(group), group, None))))["exception"]
    assert "ValueError: one" in text
    assert "TypeError: two" in text


def test_a_traceback_in_words_is_indented_so_that_it_cannot_pass_for_lines() -> None:
    _, *rest = formatter(as_json=False).format(record("x", exc_info=raised("a" + FORGED))).splitlines()
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_lines_within_a_second_share_its_date_and_not_their_milliseconds() -> None:
    made = formatter(as_json=True)
    stamps = []
    for at in (1_700_000_000.25, 1_700_000_000.75, 1_700_000_001.5):
        one = record("x")
        one.created, one.msecs = at, at % 1 * 1000
        stamps.append(json.loads(made.format(one))["timestamp"][-7:])
    assert stamps == ["20.250Z", "20.750Z", "21.500Z"]


def test_what_is_remembered_of_callers_texts_is_bounded() -> None:
    made = formatter(as_json=True)
    for number in range(5000):
        made.format(access(path=f"/{number}", routed=False))
    assert len(made._remembered) <= 1024


def test_control_characters_are_written_out() -> None:
    assert one_line(HOSTILE) == "a\\nb\\r\\x1b[31m\\x85\\u2028\\x00c"


def test_a_line_on_a_terminal_has_the_time_of_its_request() -> None:
    written = record(RequestLine("marked", method="GET", path="/health", routed=True, status=200), name=access_log.name)
    written.created, written.msecs = 1_700_000_000.25, 250.0
    text = LineFormatter(Redactor([]), as_json=False, colors=True).format(written)
    assert "2023-11-14T22:13:20.250Z" in text
    assert "marked" in text
