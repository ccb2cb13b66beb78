"""Wrong fields in the contract's words: the first one makes the error, all of them are listed."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apps.api.src.http.request import as_app_error
from apps.tests.support.reading import JSON, envelope
from apps.tests.support.serving import serving_models

CLOUD, LOCAL = "/generate", "/local/generate"
BIG = 10**400


@pytest.fixture(scope="module")
def url() -> object:
    with serving_models() as base:
        yield base


def ranged(minimum: float, maximum: float, received: Any) -> dict[str, Any]:
    return {"min": minimum, "max": maximum, "received": received}


TEXT = "Prompt must be a string"
LONG = "Prompt must be at most 1000 characters"
EMPTY = "Prompt must not be empty"
WARMTH = "Temperature must be between 0 and 2"
NUMBER = "Temperature must be a number"
TOKENS = "Max tokens must be between 1 and 16384"
WHOLE = "Max tokens must be an integer"
FEWER = "Max tokens must be between 1 and 2000"
WRONG: list[tuple[str, dict[str, Any], str, str, str, dict[str, Any]]] = [
    (CLOUD, {}, "MISSING_REQUIRED_FIELD", "prompt", "Prompt is required", {}),
    (CLOUD, {"prompt": None}, "INVALID_TYPE", "prompt", TEXT, {"received_type": "null"}),
    (CLOUD, {"prompt": 3}, "INVALID_TYPE", "prompt", TEXT, {"received_type": "integer"}),
    (CLOUD, {"prompt": ["a"]}, "INVALID_TYPE", "prompt", TEXT, {"received_type": "array"}),
    (CLOUD, {"prompt": ""}, "INVALID_VALUE", "prompt", EMPTY, ranged(1, 1000, 0)),
    (CLOUD, {"prompt": " \n\u2003"}, "INVALID_VALUE", "prompt", EMPTY, ranged(1, 1000, 0)),
    (CLOUD, {"prompt": "a" * 1001}, "INVALID_VALUE", "prompt", LONG, ranged(1, 1000, 1001)),
    (LOCAL, {"prompt": "😀" * 1001}, "INVALID_VALUE", "prompt", LONG, ranged(1, 1000, 1001)),
    (CLOUD, {"temperature": 3.5}, "INVALID_VALUE", "temperature", WARMTH, ranged(0, 2, 3.5)),
    (CLOUD, {"temperature": -0.1}, "INVALID_VALUE", "temperature", WARMTH, ranged(0, 2, -0.1)),
    (CLOUD, {"temperature": "0.7"}, "INVALID_TYPE", "temperature", NUMBER, {"received_type": "string"}),
    (CLOUD, {"temperature": True}, "INVALID_TYPE", "temperature", NUMBER, {"received_type": "boolean"}),
    (CLOUD, {"temperature": None}, "INVALID_TYPE", "temperature", NUMBER, {"received_type": "null"}),
    (CLOUD, {"top_p": 1.01}, "INVALID_VALUE", "top_p", "Top p must be between 0 and 1", ranged(0, 1, 1.01)),
    (LOCAL, {"top_p": -1}, "INVALID_VALUE", "top_p", "Top p must be between 0 and 1", ranged(0, 1, -1)),
    (CLOUD, {"max_tokens": 0}, "INVALID_VALUE", "max_tokens", TOKENS, ranged(1, 16384, 0)),
    (CLOUD, {"max_tokens": 16385}, "INVALID_VALUE", "max_tokens", TOKENS, ranged(1, 16384, 16385)),
    (LOCAL, {"max_tokens": 2001}, "INVALID_VALUE", "max_tokens", FEWER, ranged(1, 2000, 2001)),
    (CLOUD, {"max_tokens": 100.0}, "INVALID_TYPE", "max_tokens", WHOLE, {"received_type": "number"}),
    (CLOUD, {"max_tokens": 1.5}, "INVALID_TYPE", "max_tokens", WHOLE, {"received_type": "number"}),
    (CLOUD, {"max_tokens": "5"}, "INVALID_TYPE", "max_tokens", WHOLE, {"received_type": "string"}),
    (CLOUD, {"max_tokens": False}, "INVALID_TYPE", "max_tokens", WHOLE, {"received_type": "boolean"}),
    (CLOUD, {"model": ""}, "INVALID_VALUE", "model", "Model must not be empty", ranged(1, 200, 0)),
    (CLOUD, {"model": 3}, "INVALID_TYPE", "model", "Model must be a string", {"received_type": "integer"}),
    (CLOUD + "?stream=perhaps", {"prompt": "hi"}, "INVALID_TYPE", "stream", "Stream must be true or false", {}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "code", "field", "message", "details"), WRONG)
def test_a_wrong_field(
    path: str,
    fields: dict[str, Any],
    code: str,
    field: str,
    message: str,
    details: dict[str, Any],
    url: str,
    http: httpx2.Client,
) -> None:
    body = fields if not fields or "prompt" in fields else {"prompt": "hi", **fields}
    error = envelope(http.post(url + path, json=body))
    assert (error["status"], error["code"], error["field"], error["message"]) == (422, code, field, message)
    assert details.items() <= error["details"].items()
    assert error["details"]["errors"] == [{"field": field, "code": code, "message": message}]


@pytest.mark.parametrize("body", ["[]", '"text"', "3", "null", "true", '[{"prompt": "hi"}]'])
def test_a_body_that_is_no_object(body: str, url: str, http: httpx2.Client) -> None:
    error = envelope(http.post(url + CLOUD, content=body, headers=JSON))
    assert (error["code"], error["message"], error["field"]) == (
        "INVALID_TYPE",
        "Request body must be a JSON object",
        None,
    )


@pytest.mark.parametrize(
    ("value", "received"),
    [("1e400", "inf"), ("-1e400", "-inf"), ("1e308", 1e308), ("9" * 400, "inf"), ("-" + "9" * 400, "-inf")],
)
@pytest.mark.parametrize("field", ["temperature", "top_p"])
def test_huge_numbers_are_out_of_range(field: str, value: str, received: Any, url: str, http: httpx2.Client) -> None:
    body = f'{{"prompt": "hi", "{field}": {value}}}'
    error = envelope(http.post(url + CLOUD, content=body, headers=JSON))
    assert (error["code"], error["field"]) == ("INVALID_VALUE", field)
    assert error["details"]["received"] == received


def test_all_wrong_fields_are_listed_and_the_first_is_the_error(url: str, http: httpx2.Client) -> None:
    error = envelope(http.post(url + CLOUD, json={"temperature": 9, "top_p": "x", "max_tokens": 0}))
    assert (error["code"], error["field"]) == ("MISSING_REQUIRED_FIELD", "prompt")
    assert [(one["field"], one["code"]) for one in error["details"]["errors"]] == [
        ("prompt", "MISSING_REQUIRED_FIELD"),
        ("temperature", "INVALID_VALUE"),
        ("top_p", "INVALID_TYPE"),
        ("max_tokens", "INVALID_VALUE"),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 0},
        {"top_p": 1},
        {"max_tokens": 1},
        {"max_tokens": 2000},
        {"model": None},
        {"unknown": [None]},
        {"prompt": "😀" * 1000},
        {"prompt": " x "},
    ],
)
@pytest.mark.parametrize("path", [CLOUD, LOCAL])
def test_the_limits_themselves_are_allowed(path: str, fields: dict[str, Any], url: str, http: httpx2.Client) -> None:
    assert http.post(url + path, json={"prompt": "hi", **fields}).status_code == 200


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=90) as kept:
        yield kept


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(["prompt", "temperature", "top_p", "max_tokens", "model", "x"]), VALUES))
@pytest.mark.long
def test_no_body_gets_anything_but_an_answer_or_an_envelope(
    url: str, client: httpx2.Client, body: dict[str, Any]
) -> None:
    response = client.post(url + CLOUD, content=json.dumps(body), headers=JSON)
    if response.status_code != 200:
        assert envelope(response)["status"] == 422


def test_what_is_repeated_of_a_value_is_short_and_valid_json() -> None:
    error = as_app_error([{"type": "other", "loc": ("body", "x"), "input": "y" * 1000}])
    assert error.details["received"] == "y" * 100
    for value in (b"\xff", float("nan"), float("inf"), 10**400, object(), {"a": 1}):
        shown = as_app_error([{"type": "other", "loc": ("body", "x"), "input": value}])
        json.dumps(shown.envelope(), allow_nan=False)
