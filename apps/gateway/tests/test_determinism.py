"""Which calls would be answered the same again: by what their bodies say, and nothing else."""

import json
from typing import Any

import pytest

from apps.gateway.protocol import WireCall, is_deterministic, is_whole_when_answered

CHAT = "/chat/completions"


def call(path: str = CHAT, **body: Any) -> WireCall:
    return WireCall(path, json.dumps(body).encode(), body, False)


@pytest.mark.parametrize(
    ("body", "greedy", "expected"),
    [
        ({"temperature": 0}, False, True),
        ({"temperature": 0.0, "n": 1}, False, True),
        ({"temperature": 0, "n": 2}, False, False),
        ({"temperature": 1, "seed": 1, "n": 2}, False, False),
        ({"temperature": 1}, True, False),
        ({"temperature": 1, "seed": 1}, False, True),
        ({"temperature": False}, False, False),
        ({"temperature": "0"}, True, False),
        ({"seed": True}, False, False),
        ({"seed": None}, False, False),
        ({}, False, False),
        ({}, True, True),
        ({"temperature": None}, True, True),
        ({"temperature": 0, "tools": [{"type": "function"}]}, False, True),
        ({"temperature": 0, "tools": [{"type": "function"}, {"type": "web_search"}]}, False, False),
        ({"temperature": 0, "web_search_options": {}}, False, False),
    ],
)
def test_a_chat_is_deterministic_at_temperature_0_or_with_a_seed(
    body: dict[str, Any], greedy: bool, expected: bool
) -> None:
    assert is_deterministic(call(**body), lambda: greedy) is expected


def test_embeddings_always_are() -> None:
    assert is_deterministic(call("/embeddings", input="x"), lambda: False)


@pytest.mark.parametrize("field", ["conversation", "previous_response_id", "prompt"])
def test_a_response_to_what_lies_elsewhere_is_not(field: str) -> None:
    assert is_deterministic(call("/responses", temperature=0), lambda: False)
    assert not is_deterministic(call("/responses", temperature=0, **{field: "x"}), lambda: False)


def test_the_prompt_of_a_completion_is_its_text() -> None:
    assert is_deterministic(call("/completions", temperature=0, prompt="x"), lambda: False)


def test_a_response_in_the_background_is_not_whole_when_it_is_answered() -> None:
    assert not is_whole_when_answered(call("/responses", background=True))
    assert is_whole_when_answered(call("/responses", background=False))
