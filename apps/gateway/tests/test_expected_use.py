"""What a call may use at most, read from its body before it is made."""

import json
from typing import Any

import pytest

from apps.core.calls import ASSUMED_ANSWER
from apps.gateway.protocol import IMAGE_TOKENS, ExpectedUse, WireCall, expected_use


def use(path: str = "/chat/completions", **body: Any) -> ExpectedUse:
    return expected_use(WireCall(path, json.dumps(body).encode(), body, False))


def test_a_prompt_is_a_token_in_four_bytes() -> None:
    assert use(messages=[{"role": "user", "content": "x" * 4000}]).prompt == pytest.approx(1000, abs=20)


@pytest.mark.parametrize(
    ("body", "limit", "answer"),
    [
        ({}, 0, ASSUMED_ANSWER),
        ({"max_tokens": 7}, 7, 7),
        ({"max_completion_tokens": 9, "max_tokens": 7}, 9, 9),
        ({"max_output_tokens": 5}, 5, 5),
        ({"max_tokens": 7, "n": 3}, 21, 21),
        ({"n": 2}, 0, 2 * ASSUMED_ANSWER),
        ({"max_tokens": 7, "n": 2, "best_of": 5}, 35, 35),
        ({"max_tokens": -7, "n": -3}, 0, ASSUMED_ANSWER),
        ({"max_tokens": "many", "n": "all"}, 0, ASSUMED_ANSWER),
    ],
)
def test_an_answer_is_as_long_as_its_caller_allows_or_as_is_assumed(
    body: dict[str, Any], limit: int, answer: int
) -> None:
    expected = use(**body)
    assert (expected.limit, expected.answer) == (limit, answer)


def test_embeddings_have_no_answer() -> None:
    expected = use("/embeddings", input="x" * 400, max_tokens=10**9)
    assert expected.prompt > 100
    assert (expected.limit, expected.answer) == (0, 0)


def test_an_image_counts_for_itself_and_not_by_its_bytes() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    content = [{"type": "text", "text": "x" * 400}, picture, picture]
    messages = [{"role": "system", "content": "y" * 40}, {"role": "user", "content": content}]
    assert use(messages=messages).prompt == 2 * IMAGE_TOKENS + 110
