"""The error tree is the contract's table, and every error has the one envelope."""

import json
from typing import Any

import pytest

from apps.core.errors import (
    AppError,
    ContextLengthExceeded,
    InvalidValue,
    RateLimitExceeded,
    Rejection,
    StoreUnavailable,
    TextTooLong,
    Timeout,
    UpstreamError,
    UpstreamRejected,
    error_classes,
    error_of_envelope,
    forget_tracebacks,
)

TABLE = {
    "INVALID_JSON": 422,
    "MISSING_REQUIRED_FIELD": 422,
    "INVALID_TYPE": 422,
    "INVALID_VALUE": 422,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "RATE_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500,
    "UPSTREAM_ERROR": 502,
    "MODEL_UNAVAILABLE": 503,
    "OVERLOADED": 503,
    "TIMEOUT": 504,
}


def tree(root: type[AppError] = AppError) -> list[type[AppError]]:
    return [root, *(cls for child in root.__subclasses__() for cls in tree(child))]


def test_the_tree_has_every_row_of_the_contract() -> None:
    assert TABLE.items() <= {cls.code: cls.status for cls in error_classes()}.items()


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_a_subclass_keeps_the_status_of_its_code_and_explains_itself(kind: type[AppError]) -> None:
    assert kind.status == {cls.code: cls.status for cls in error_classes()}[kind.code]
    assert kind.summary


def test_the_envelope_has_all_five_keys_even_where_nothing_is_known() -> None:
    assert json.loads(json.dumps(AppError("m").envelope())) == {
        "error": {"code": "INTERNAL_ERROR", "message": "m", "status": 500, "field": None, "details": {}}
    }


def test_only_a_failure_of_the_upstream_itself_is_worth_another_attempt() -> None:
    assert sorted(cls.__name__ for cls in tree() if cls.retryable) == ["UpstreamTimeout", "UpstreamUnavailable"]


FACTS: dict[str, Any] = {
    "field": "model",
    "details": {"limit": "3 a minute"},
    "headers": {"X-Left": "0"},
    "retry_after": 2.5,
    "upstream_status": 429,
    "source": "upstream",
    "attempts": 2,
}


def test_an_error_is_its_message_and_shows_what_is_known() -> None:
    error = RateLimitExceeded("too many", **FACTS)
    assert (str(error), error.message, error.field, error.retry_after) == ("too many", "too many", "model", 2.5)
    assert (error.upstream_status, error.source, error.attempts) == (429, "upstream", 2)
    assert error.headers == {"X-Left": "0"}
    shown = {"upstream_status": 429, "source": "upstream", "attempts": 2, "limit": "3 a minute"}
    assert error.envelope()["error"] == {
        "code": "RATE_LIMIT_EXCEEDED",
        "message": "too many",
        "status": 429,
        "field": "model",
        "details": shown,
    }


def test_what_is_not_known_is_not_shown_and_what_is_given_is_not_shared() -> None:
    headers, details = {"A": "b"}, {"max": 3}
    error = AppError("m", headers=headers, details=details)
    error.headers["C"] = error.details["c"] = "d"
    assert (headers, details) == ({"A": "b"}, {"max": 3})
    bare = AppError("m")
    assert (bare.headers, bare.details, bare.retry_after, bare.upstream_status) == ({}, {}, None, None)
    assert (bare.source, bare.attempts, bare.field) == (None, None, None)


def test_details_of_the_case_go_before_what_is_known() -> None:
    assert AppError("m", details={"source": "own"}, source="key").details == {"source": "own"}


def test_attempts_are_counted_once_by_who_is_nearest() -> None:
    error = AppError("m")
    error.count_attempts(3)
    error.count_attempts(5)
    assert (error.attempts, error.details) == (3, {"attempts": 3})


def test_as_another_kind_an_error_keeps_all_that_is_known() -> None:
    error = RateLimitExceeded("too many", **FACTS)
    copy = error.as_kind(Timeout)
    assert type(copy) is Timeout
    names = ("message", "field", "headers", "retry_after", "upstream_status", "source", "attempts", "details")
    assert {name: getattr(copy, name) for name in names} == {name: getattr(error, name) for name in names}
    assert str(copy) == "too many"
    copy.details["more"] = 1
    assert "more" not in error.details


def test_a_rejection_goes_with_its_own_kind_alone() -> None:
    rejection = Rejection(404, "no such model", "model_not_found", "model")
    error = UpstreamRejected(rejection)
    assert (error.message, error.field, error.upstream_status) == ("The upstream refused the call", "model", 404)
    assert (error.rejection, error.details) == (rejection, {"upstream_status": 404})
    same, other = error.as_kind(UpstreamRejected), error.as_kind(UpstreamError)
    assert isinstance(same, UpstreamRejected)
    assert same.rejection is rejection
    assert type(other) is UpstreamError
    assert not hasattr(other, "rejection")
    assert (other.field, other.upstream_status) == ("model", 404)


def test_a_prompt_that_is_too_long_says_the_numbers() -> None:
    error = ContextLengthExceeded(2000, 500, 2048)
    assert error.message == (
        "This model's maximum context length is 2048 tokens, and the prompt's 2000 tokens and max_tokens 500 exceed it"
    )
    assert (error.field, error.details) == (
        "max_tokens",
        {"prompt_tokens": 2000, "max_tokens": 500, "context_length": 2048},
    )
    assert ContextLengthExceeded(1, 2, 3, "messages").field == "messages"
    text = TextTooLong(300, 256, 2, "input.2")
    assert text.message == "This model's maximum context length is 256 tokens a text, and text 2 has 300"
    assert (text.field, text.details) == ("input.2", {"index": 2, "tokens": 300, "max": 256})


def test_a_database_that_is_away_is_worth_coming_back_in_a_second() -> None:
    error = StoreUnavailable()
    assert (error.message, error.retry_after) == ("The service cannot reach its database; try again", 1)


def test_there_is_one_class_a_code() -> None:
    codes = [cls.code for cls in error_classes()]
    assert len(codes) == len(set(codes)) > 20


def raised(error: Exception, cause: BaseException | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_tracebacks_of_an_error_and_of_all_that_it_came_from_are_forgotten() -> None:
    first, second = raised(ValueError("first")), raised(KeyError("second"))
    first.__context__ = second
    error = raised(AppError("m"), first)
    # a circle, as a handler makes that raises again what it caught
    second.__context__ = error
    assert all(one.__traceback__ for one in (first, second, error))
    forget_tracebacks(error)
    assert not any(one.__traceback__ for one in (first, second, error))


def test_an_envelope_of_another_process_becomes_its_error_again() -> None:
    error = RateLimitExceeded("too many", field="model", details={"limit": "3"})
    again = error_of_envelope(error.envelope()["error"], 7.0)
    assert type(again) is RateLimitExceeded
    assert (again.message, again.field, again.details, again.retry_after) == ("too many", "model", {"limit": "3"}, 7.0)
    # in OpenAI's shape our code stands beside theirs
    openais = {"code": "context_length_exceeded", "error_code": "INVALID_VALUE", "message": "long", "details": 3}
    long = error_of_envelope({**openais, "field": 5}, None)
    assert type(long) is ContextLengthExceeded
    assert (long.message, long.field, long.details, long.retry_after) == ("long", None, {}, None)
    plain = error_of_envelope({"code": "INVALID_VALUE", "message": "m"}, None)
    assert type(plain) is InvalidValue


@pytest.mark.parametrize(
    "envelope",
    [
        {},
        {"code": "INVALID_VALUE"},
        {"message": "m"},
        {"code": "OWN", "message": "m"},
        {"code": "TIMEOUT", "message": 3},
    ],
)
def test_what_is_no_envelope_of_ours_is_no_error_of_ours(envelope: dict[str, Any]) -> None:
    assert error_of_envelope(envelope, None) is None
