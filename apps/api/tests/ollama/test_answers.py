"""Answers in Ollama's shape: what a client shows as the speed of a model is no accident of how it was asked."""

from apps.api.src.ollama.answers import Lines

ANSWER = {
    "choices": [{"message": {"content": "It is sunny."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
}


def test_the_time_of_a_whole_answer_is_its_own() -> None:
    whole = Lines("tiny", chat=True).whole(ANSWER)
    assert (whole["message"]["content"], whole["eval_count"], whole["done"]) == ("It is sunny.", 3, True)
    assert whole["prompt_eval_duration"] == 0
    assert whole["eval_duration"] == whole["total_duration"] > 0
