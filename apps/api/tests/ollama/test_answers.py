"""Answers in Ollama's shape: what a client shows as the speed of a model is no accident of how it was asked."""

import json

import httpx2
import pytest

from apps.api.src.ollama.answers import Lines
from apps.core.deltas import Delta
from apps.core.errors import UpstreamError
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.serving import serving_models

ANSWER = {
    "choices": [{"message": {"content": "It is sunny."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
}


def test_the_time_of_a_whole_answer_is_its_own() -> None:
    whole = Lines("tiny", chat=True).whole(ANSWER)
    assert (whole["message"]["content"], whole["eval_count"], whole["done"]) == ("It is sunny.", 3, True)
    assert whole["prompt_eval_duration"] == 0
    assert whole["eval_duration"] == whole["total_duration"] > 0


@pytest.mark.parametrize(
    ("ending", "last"),
    [
        (Delta(finish_reason="stop"), {"done": True, "done_reason": "stop"}),
        (UpstreamError("The upstream failed"), {"error": "The upstream failed"}),
    ],
)
def test_a_streamed_answer_is_a_line_of_json_a_delta_and_one_at_the_end(
    ending: Step, last: dict[str, object], http: httpx2.Client
) -> None:
    model = ScriptedModel(lambda request: [Delta("It is "), Delta("sunny."), ending], name="tiny")
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    with serving_models(local=model, auth="off") as url:
        answer = http.post(f"{url}/api/chat", json=asked)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [line["message"]["content"] for line in lines[:2]] == ["It is ", "sunny."]
    assert last.items() <= lines[-1].items()
    assert [line for line in lines[:-1] if line["done"] or "error" in line] == []
