"""Says what is wrong with an answer: one line each, none where it is as the case expects."""

import json
import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from eval.case_call import Exchange
from eval.case_schema import SECONDS, Check, ErrorCheck, Expect, StreamCheck
from eval.event_stream import Event, events_of

MISSING = object()
FIELDS: dict[str, Any] = {
    "code": {"type": "string", "pattern": "^[A-Z_]+$"},
    "message": {"type": "string", "minLength": 1},
    "status": {"type": "integer", "minimum": 400, "maximum": 599},
    "field": {"type": ["string", "null"]},
    "details": {"type": "object"},
}
OPENAI_FIELDS: dict[str, Any] = {
    "code": {"type": "string", "minLength": 1},
    "type": {"type": "string"},
    "param": {"type": ["string", "null"]},
    "error_code": FIELDS["code"],
}


def envelope_schema(fields: dict[str, Any]) -> dict[str, Any]:
    """The schema of an error's body: exactly these fields, always all of them."""
    error = {"type": "object", "required": [*fields], "additionalProperties": False, "properties": fields}
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


def problems(expect: Expect, exchange: Exchange, upstream_calls: int | None) -> list[str]:
    """What is wrong, in words; ``upstream_calls`` is what the mock counted, None where there is none."""
    return list(_problems(expect, exchange, upstream_calls))


def _problems(expect: Expect, exchange: Exchange, upstream_calls: int | None) -> Iterator[str]:
    if exchange.status != expect.status:
        yield f"status is {exchange.status}, not {expect.status}: {exchange.text[:300]}"
    if exchange.cut:
        yield f"the connection broke: {exchange.cut}"
    if exchange.seconds >= SECONDS[expect.latency]:
        yield f"took {exchange.seconds:.2f} s, {expect.latency} is under {SECONDS[expect.latency]} s"
    if expect.upstream_calls is not None and upstream_calls != expect.upstream_calls:
        yield f"the upstream was called {upstream_calls} times, not {expect.upstream_calls}"
    yield from _headers(expect, exchange)
    yield from _check("body", expect.body, exchange.text)
    if expect.stream:
        yield from _stream(expect.stream, exchange)
    elif expect.error or expect.json_values or expect.checks or expect.json_schema:
        yield from _json(expect, exchange)


def _headers(expect: Expect, exchange: Exchange) -> Iterator[str]:
    for name, check in expect.headers.items():
        value = exchange.headers.get(name)
        if check is None:
            if value is not None:
                yield f"header {name} is there: {value!r}"
        elif value is None:
            yield f"header {name} is missing"
        else:
            yield from _check(f"header {name}", check, value)


def _json(expect: Expect, exchange: Exchange) -> Iterator[str]:
    if exchange.headers.get("content-type", "").split(";")[0] != "application/json":
        yield f"content-type is {exchange.headers.get('content-type')!r}, not application/json"
    try:
        data = json.loads(exchange.body)
    except ValueError as error:
        yield f"the body is not JSON: {error}"
        return
    if expect.error:
        yield from _error(expect.error, data, expect.status)
    for pointer, value in expect.json_values.items():
        if (found := at(data, pointer)) != value or type(found) is not type(value):
            yield f"{pointer} is {_shown(found)}, not {value!r}"
    for pointer, check in expect.checks.items():
        found = at(data, pointer)
        yield from _check(pointer, check, found) if isinstance(found, str) else [f"{pointer} is {_shown(found)}"]
    if expect.json_schema:
        yield from _schema("the body", expect.json_schema, data)


def _error(expected: ErrorCheck, data: Any, status: int | None) -> Iterator[str]:
    wrong = list(_schema("the envelope", envelope_schema(FIELDS | OPENAI_FIELDS if expected.openai else FIELDS), data))
    if beside := set(data) - {"error", *expected.beside} if isinstance(data, dict) else set():
        wrong.append(f"beside the error stands {sorted(beside)}")
    yield from wrong
    if wrong:
        return
    error = data["error"]
    if status is not None and error["status"] != status:
        yield f"error.status is {error['status']}, not {status}"
    expected_values = {"code": expected.code, "field": expected.field}
    if expected.openai:
        expected_values |= {"code": expected.openai, "error_code": expected.code}
    for name, value in expected_values.items():
        if error[name] != value:
            yield f"error.{name} is {error[name]!r}, not {value!r} ({error['message']})"
    yield from _check("error.message", expected.message, error["message"])
    for name, value in expected.details.items():
        if error["details"].get(name, MISSING) != value:
            yield f"error.details.{name} is {_shown(error['details'].get(name, MISSING))}, not {value!r}"


def _stream(expected: StreamCheck, exchange: Exchange) -> Iterator[str]:
    if exchange.headers.get("content-type", "").split(";")[0] != "text/event-stream":
        yield f"content-type is {exchange.headers.get('content-type')!r}, not text/event-stream"
        return
    try:
        events = events_of(exchange.body)
    except UnicodeDecodeError as error:
        yield f"the stream is not UTF-8: {error}"
        return
    terminals = [event for event in events if event.kind in ("done", "error")]
    if [event.kind for event in terminals] != [expected.terminal] or events[-1] is not terminals[0]:
        kinds = [event.kind for event in events[-3:]]
        yield f"the stream ends with {kinds}, not with one {expected.terminal} event"
        return
    deltas = list(_deltas(events))
    if len(deltas) < expected.min_deltas:
        yield f"{len(deltas)} deltas, not {expected.min_deltas} or more"
    yield from _check("the stream's text", expected.text, "".join(deltas))
    yield from _terminal(expected, terminals[0])


def _deltas(events: list[Event]) -> Iterator[str]:
    """The deltas' texts: a line of data cannot hold a CR, so one that has it comes as JSON in a ``delta`` event."""
    for event in events:
        if event.kind == "delta":
            yield json.loads(event.data)["text"]
        elif event.kind == "message":
            yield event.data


def _terminal(expected: StreamCheck, event: Event) -> Iterator[str]:
    try:
        data = json.loads(event.data)
    except ValueError:
        yield f"the data of the terminal event is not JSON: {event.data!r}"
        return
    if expected.error:
        yield from _error(expected.error, data, None)
    if expected.done:
        yield from _schema("the done event", expected.done, data)


def _check(what: str, check: Check, text: str) -> Iterator[str]:
    if check.equals is not None and text != check.equals:
        yield f"{what} is {text[:300]!r}, not {check.equals[:300]!r}"
    for part in check.contains:
        if part not in text:
            yield f"{what} does not contain {part!r}: {text[:300]!r}"
    for part in check.excludes:
        if part in text:
            yield f"{what} contains {part!r}: {text[:300]!r}"
    if check.regex and not re.search(check.regex, text):
        yield f"{what} does not match {check.regex!r}: {text[:300]!r}"
    if check.min_length is not None and len(text) < check.min_length:
        yield f"{what} has {len(text)} characters, not {check.min_length} or more"


def _schema(what: str, schema: dict[str, Any], data: Any) -> Iterator[str]:
    for error in Draft202012Validator(schema).iter_errors(data):
        yield f"{what} does not match its schema at {error.json_path}: {error.message[:300]}"


def at(data: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901), MISSING where there is none."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(data, dict):
            data = data.get(key, MISSING)
        elif isinstance(data, list) and key.isdigit() and int(key) < len(data):
            data = data[int(key)]
        else:
            return MISSING
    return data


def _shown(value: Any) -> str:
    return "missing" if value is MISSING else repr(value)[:300]
