"""The words of a request: what the caller leaves open stays open."""

from apps.core.messages import ChatRequest, Message, user_message


def test_a_prompt_is_one_turn_of_the_user() -> None:
    assert user_message("hi") == (Message("user", "hi"),)


def test_what_is_left_open_is_none() -> None:
    request = ChatRequest(user_message("hi"))
    assert (request.model, request.temperature, request.top_p, request.max_tokens) == (None, None, None, None)
