"""The words of a request: what the caller leaves open stays open."""

from dataclasses import replace

from apps.core.callers import ANONYMOUS
from apps.core.calls import CallRecord
from apps.core.messages import ChatRequest, Message, user_message


def test_a_prompt_is_one_turn_of_the_user() -> None:
    assert user_message("hi") == (Message("user", "hi"),)


def test_what_is_left_open_is_none() -> None:
    request = ChatRequest(user_message("hi"))
    assert (request.model, request.temperature, request.top_p, request.max_tokens) == (None, None, None, None)


def test_what_is_not_asked_for_is_off() -> None:
    request = ChatRequest(user_message("hi"))
    assert not any((request.ignore_eos, request.continue_final_message, request.echo, request.truncate_right))
    assert not any((request.token_ids, request.running_usage, request.fits, request.raw, request.streamed))
    assert not request.joins
    assert request.generation_prompt


def test_the_cache_is_looked_up_and_stored_to_unless_the_caller_says_otherwise() -> None:
    cache = ChatRequest(user_message("hi")).cache
    assert (cache.lookup, cache.store, cache.ttl) == (True, True, None)


def test_the_record_of_a_call_makes_no_other_request_of_it_and_is_not_shown() -> None:
    request = ChatRequest(user_message("hi"))
    recorded = replace(request, record=CallRecord(ANONYMOUS, "/route", "secret model"))
    assert recorded == request
    assert "secret model" not in repr(recorded)
