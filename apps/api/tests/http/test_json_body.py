"""Bodies are read strictly: what is no JSON is INVALID_JSON, whatever made it so; nothing in a body crashes."""

import codecs
import json

import httpx2
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apps.api.src.http.request import parse_json, refuse_duplicates
from apps.core.errors import InvalidJson
from apps.tests.support.reading import envelope, exchange, post
from apps.tests.support.serving import serving_models

GOOD = b'{"prompt": "hi"}'
DEEP = 100_000


@pytest.fixture(scope="module")
def url() -> object:
    with serving_models() as base:
        yield base


BROKEN = {
    "empty": b"",
    "white space": b" \r\n\t",
    "text": b"hello",
    "cut": b'{"prompt": "hi"',
    "trailing": b'{"prompt": "hi"} x',
    "trailing comma": b'{"prompt": "hi",}',
    "single quotes": b"{'prompt': 'hi'}",
    "comment": b'{"prompt": "hi"} // c',
    "NaN": b'{"prompt": "hi", "temperature": NaN}',
    "Infinity": b'{"prompt": "hi", "temperature": Infinity}',
    "-Infinity": b'{"prompt": "hi", "other": [-Infinity]}',
    "control character": b'{"prompt": "a\nb"}',
    "lone surrogate": b'{"prompt": "a\\ud83d"}',
    "lone trailing surrogate": b'{"prompt": "\\ude00a"}',
    "lone surrogate in a key": b'{"prompt": "a", "\\uD800": 1}',
    "swapped surrogates": b'{"prompt": "\\ude00\\ud83d"}',
    "raw surrogate": b'{"prompt": "\xed\xa0\xbd"}',
    "latin-1": '{"prompt": "é"}'.encode("latin-1"),
    "UTF-16": '{"prompt": "hi"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"prompt": "hi"}'.encode("utf-16-le"),
    "UTF-32": '{"prompt": "hi"}'.encode("utf-32"),
    "overlong": b'{"prompt": "\xc0\xaf"}',
    "form": b"prompt=hi",
    "list bomb": b"[" * DEEP,
    "object bomb": b'{"a":' * DEEP,
    "closed list bomb": b"[" * DEEP + b"]" * DEEP,
    "list bomb in a field": b'{"prompt": "hi", "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "5000 digits": b'{"prompt": "hi", "max_tokens": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("path", ["/generate", "/local/generate?stream=true"])
def test_what_is_no_json_is_invalid_json(body: bytes, path: str, url: str, http: httpx2.Client) -> None:
    error = envelope(http.post(url + path, content=body, headers={"Content-Type": "application/json"}))
    assert (error["status"], error["code"], error["field"]) == (422, "INVALID_JSON", None)
    assert "sys." not in error["message"]


TAKEN = {
    "plain": GOOD,
    "byte order mark": codecs.BOM_UTF8 + GOOD,
    "white space": b" \r\n\t" + GOOD + b"\n",
    "escaped pair": b'{"prompt": "\\ud83d\\ude00"}',
    "duplicate keys": b'{"prompt": "a", "prompt": "b"}',
    "unknown fields": b'{"prompt": "a", "stream": 3, "x": {"y": [1e400, 1]}}',
    "moderately deep": b'{"prompt": "hi", "x": ' + b"[" * 100 + b"]" * 100 + b"}",
    "NUL": b'{"prompt": "a\\u0000"}',
}


@pytest.mark.parametrize("body", TAKEN.values(), ids=TAKEN.keys())
def test_what_is_json_is_taken(body: bytes, url: str, http: httpx2.Client) -> None:
    response = http.post(f"{url}/generate", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()) == (200, {"response": "hello"})


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/problem+json", "application/json;charset=x"],
)
def test_json_by_any_of_its_names_is_taken(content_type: str, url: str, http: httpx2.Client) -> None:
    assert http.post(f"{url}/generate", content=GOOD, headers={"Content-Type": content_type}).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/xml",
        "json",
        "text/json",
        "application/ json",
        "*/*",
    ],
)
def test_any_other_content_type_is_415(content_type: str, url: str, http: httpx2.Client) -> None:
    error = envelope(http.post(f"{url}/generate", content=GOOD, headers={"Content-Type": content_type}))
    assert (error["status"], error["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_missing_content_type_is_415(url: str) -> None:
    request = post("/generate", GOOD).replace(b"Content-Type: application/json\r\n", b"")
    assert envelope(exchange(url, request))["code"] == "UNSUPPORTED_MEDIA_TYPE"


def test_the_position_of_the_fault_is_told_and_the_body_is_not() -> None:
    with pytest.raises(InvalidJson) as caught:
        parse_json(b'{"a": 1,\n "secret" 2}')
    assert caught.value.details == {"position": 19, "line": 2, "column": 11}
    assert "secret" not in caught.value.message


MANY = {
    "lists": b"[" + b"[]," * 30_000 + b"0]",
    "objects": b"[" + b"{}," * 30_000 + b"0]",
    "lists in lists": (b"[" * 500 + b"]" * 500 + b",") * 60,
    "numbers": b"[" + b"1," * 500_000 + b"1]",
    "lists behind a text that does not end": b"[" + b"[]," * 30_000 + b'"',
}


@pytest.mark.parametrize("kind", MANY)
def test_more_values_than_any_call_has_are_refused_before_they_are_made(kind: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        parse_json(MANY[kind])
    assert caught.value.message == "Request body holds too many values"


@pytest.mark.parametrize("text", ["[" * 300_000, "{," * 300_000, '\\"[,' * 200_000, "\\\\[" * 200_000])
def test_what_stands_in_a_text_is_no_value(text: str) -> None:
    body = {"prompt": text, "ids": list(range(1000))}
    assert parse_json(json.dumps(body).encode()) == body


@hypothesis_settings(deadline=None)
@given(st.binary() | st.text().map(str.encode))
@pytest.mark.long
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    try:
        json.dumps(parse_json(body))
    except InvalidJson as error:
        json.dumps(error.envelope())


TWICE = {
    "side by side": b'{"model": "a", "model": "b"}',
    "spelled with an escape": b'{"model": "a", "mod\\u0065l": "b"}',
    "both escaped": b'{"\\u006dodel": "a", "mod\\u0065l": "b"}',
    "far apart": b'{"model": "a", "messages": [{"model": 1}], "x": {"model": 2}, "model": "a"}',
    "with a mark": b'\xef\xbb\xbf{"max_tokens": 1, "max_tokens": 9999, "model": "a"}',
    "streams": b'{"model": "a", "stream": false, "stream": true}',
}
ONCE = {
    "deeper down": b'{"model": "a", "messages": [{"model": 1, "model": 2}]}',
    "in a text": b'{"model": "a", "x": "\\"model\\": 1", "y": "\\u003cmodel\\u003e"}',
    "what decides nothing": b'{"model": "a", "user": "x", "user": "y"}',
    "one escape": b'{"mod\\u0065l": "b"}',
}


@pytest.mark.parametrize("raw", TWICE.values(), ids=TWICE.keys())
def test_what_decides_may_not_stand_there_twice(raw: bytes) -> None:
    with pytest.raises(InvalidJson, match="twice"):
        refuse_duplicates(raw, parse_json(raw))


@pytest.mark.parametrize("raw", ONCE.values(), ids=ONCE.keys())
def test_what_stands_there_once_is_taken(raw: bytes) -> None:
    refuse_duplicates(raw, parse_json(raw))


def test_a_body_that_two_parsers_read_differently_is_refused_on_v1(url: str, http: httpx2.Client) -> None:
    answer = http.post(
        f"{url}/v1/chat/completions", content=TWICE["side by side"], headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["error_code"]) == (400, "INVALID_JSON")
    assert answer.json()["error"]["details"] == {"duplicate": "model"}
