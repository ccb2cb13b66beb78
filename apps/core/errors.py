"""The error tree: every error that a client can see is one of these classes.

``code`` and ``status`` belong to the class; message, field and details to the case. The OpenAPI page is made from
this file, and a test holds the table of docs/api.md to it.

A name that a caller sent, as an error may repeat it: short, and without what looks like a key in the wrong place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Source = Literal["key", "budget", "upstream"]


class AppError(Exception):
    """The root. Neither ``message`` nor ``details`` may hold a secret, an upstream's URL or a stack trace.

    ``upstream_status`` is the status of the upstream's answer, 200 where that failed after it had begun; ``source`` is
    what a limit belongs to; ``attempts`` is how often upstreams were asked. Callers see them in ``details``; code reads
    the attributes.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    summary: ClassVar[str] = "The server failed"
    retryable: ClassVar[bool] = False
    outcome: ClassVar[str | None] = None
    """Of the call on record that it ends, where that is not its code."""

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        upstream_status: int | None = None,
        source: Source | None = None,
        attempts: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.headers = dict(headers or {})
        self.retry_after = retry_after
        self.upstream_status = upstream_status
        self.source = source
        self.attempts = attempts
        facts = {"upstream_status": upstream_status, "source": source, "attempts": attempts}
        self.details = {name: value for name, value in facts.items() if value is not None} | dict(details or {})

    def count_attempts(self, attempts: int) -> None:
        """Note how often upstreams were asked, unless that is known from further down."""
        if self.attempts is None:
            self.attempts = self.details["attempts"] = attempts

    def as_kind(self, kind: "type[AppError]") -> "AppError":
        """A copy with everything that is known of this one, as an error of ``kind``."""
        copy = kind.__new__(kind)
        AppError.__init__(
            copy,
            self.message,
            field=self.field,
            details=self.details,
            headers=self.headers,
            retry_after=self.retry_after,
            upstream_status=self.upstream_status,
            source=self.source,
            attempts=self.attempts,
        )
        return copy

    def envelope(self) -> dict[str, Any]:
        """The one body that every error has."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "status": self.status,
                "field": self.field,
                "details": self.details,
            }
        }


class InternalError(AppError):
    code, status, summary = "INTERNAL_ERROR", 500, "A crash, or the retries ran out"


class UpstreamUnavailable(InternalError):
    """The upstream could not be reached, or failed by itself (5xx): worth another attempt."""

    summary = "The upstream failed and the retries ran out"
    retryable = True


class InvalidJson(AppError):
    code, status, summary = "INVALID_JSON", 422, "The body is not JSON"


class MissingRequiredField(AppError):
    code, status, summary = "MISSING_REQUIRED_FIELD", 422, "A required field is missing"


class InvalidType(AppError):
    code, status, summary = "INVALID_TYPE", 422, "A field has the wrong type"


class InvalidValue(AppError):
    code, status, summary = "INVALID_VALUE", 422, "A field's value is out of its range"


class MalformedRequest(AppError):
    code, status, summary = "BAD_REQUEST", 400, "What came is not HTTP"


class ContextLengthExceeded(InvalidValue):
    """The prompt and the answer's limit together are longer than the model's context."""

    def __init__(self, prompt_tokens: int, max_tokens: int, context_length: int, field: str = "max_tokens") -> None:
        # these words are how clients that look at messages know it
        super().__init__(
            f"This model's maximum context length is {context_length} tokens, and the prompt's {prompt_tokens} tokens "
            f"and max_tokens {max_tokens} exceed it",
            field=field,
            details={"prompt_tokens": prompt_tokens, "max_tokens": max_tokens, "context_length": context_length},
        )


class TextTooLong(ContextLengthExceeded):
    """One of several texts is longer than the model takes; ``index`` counts from 0."""

    def __init__(self, tokens: int, longest: int, index: int, field: str) -> None:
        InvalidValue.__init__(
            self,
            f"This model's maximum context length is {longest} tokens a text, and text {index} has {tokens}",
            field=field,
            details={"index": index, "tokens": tokens, "max": longest},
        )


class Unauthorized(AppError):
    code, status, summary = "UNAUTHORIZED", 401, "No key, or not a valid one"


class Forbidden(AppError):
    code, status, summary = "FORBIDDEN", 403, "The key does not reach this far"


class NotFound(AppError):
    code, status, summary = "NOT_FOUND", 404, "No such route or resource"


class MethodNotAllowed(AppError):
    code, status, summary = "METHOD_NOT_ALLOWED", 405, "The route has other methods: see Allow"


class RequestTimeout(AppError):
    code, status, summary = "REQUEST_TIMEOUT", 408, "The request came too slowly"


class Conflict(AppError):
    code, status = "CONFLICT", 409
    summary = (
        "The Idempotency-Key was used with another body, the collection has another embedding model, the run does not"
        " wait, or its call is decided already"
    )


class PayloadTooLarge(AppError):
    code, status, summary = "PAYLOAD_TOO_LARGE", 413, "The body is over the limit"


class UnsupportedMediaType(AppError):
    code, status, summary = "UNSUPPORTED_MEDIA_TYPE", 415, "Content-Type is not application/json"


class RateLimitExceeded(AppError):
    code, status, summary = "RATE_LIMIT_EXCEEDED", 429, "Too many requests, here or at the upstream"


class HeadTooLarge(AppError):
    code, status, summary = "HEADERS_TOO_LARGE", 431, "The head of the request is over the limit"


class UpstreamError(AppError):
    code, status, summary = "UPSTREAM_ERROR", 502, "The upstream refused the call, or answered nonsense"


@dataclass(frozen=True, slots=True)
class Rejection:
    """What an upstream said of a call that it refused for the caller's fault; no address or key stands in it."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None


class UpstreamRejected(UpstreamError):
    """The upstream refused the call for its caller's fault: routes of a provider's API pass that on as it is."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__("The upstream refused the call", field=rejection.param, upstream_status=rejection.status)
        self.rejection = rejection

    def as_kind(self, kind: type[AppError]) -> AppError:
        copy = super().as_kind(kind)
        if isinstance(copy, UpstreamRejected):
            copy.rejection = self.rejection
        return copy


class ModelUnavailable(AppError):
    code, status, summary = "MODEL_UNAVAILABLE", 503, "The model is not configured, loading, or failed to load"


class Overloaded(AppError):
    code, status, summary = "OVERLOADED", 503, "The queue is full"


class StoreUnavailable(Overloaded):
    """The database did not answer in time. Nothing is let through on a guess: what needs it waits for its return."""

    summary = "The database cannot be reached"

    def __init__(self) -> None:
        super().__init__("The service cannot reach its database; try again", retry_after=1)


class NoStorage(AppError):
    """The disk is full or read-only. Nothing of the request is kept, and it can be sent again once there is room."""

    code, status, summary = "INSUFFICIENT_STORAGE", 507, "The disk is full or read-only"


class Timeout(AppError):
    code, status, summary = "TIMEOUT", 504, "The time ran out"


class UpstreamTimeout(Timeout):
    """The upstream let a timeout pass: worth another attempt."""

    retryable = True


def error_classes() -> list[type[AppError]]:
    """One class a code, in the order of the table above."""
    return AppError.__subclasses__()


def forget_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of an error that has been answered, and of those that it came from.

    A traceback leads to its frames, and a frame that has the error in a variable leads back to it: what the call held
    would wait for the garbage collector, which comes rarely.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            waiting += one.__cause__, one.__context__


def error_of_envelope(envelope: Mapping[str, Any], retry_after: float | None) -> AppError | None:
    """The error that another process of this service answered with, by the ``error`` of its body; None for no such."""
    code, message, field = (
        envelope.get("error_code", envelope.get("code")),
        envelope.get("message"),
        envelope.get("field"),
    )
    kind = next((cls for cls in error_classes() if cls.code == code), None)
    if kind is None or not isinstance(message, str):
        return None
    if envelope.get("code") == "context_length_exceeded":
        kind = ContextLengthExceeded
    details = envelope.get("details")
    error = kind.__new__(kind)
    AppError.__init__(
        error,
        message,
        field=field if isinstance(field, str) else None,
        details=details if isinstance(details, dict) else None,
        retry_after=retry_after,
    )
    return error


LONGEST = 100
REDACTED = "[redacted]"
KEY_PREFIXES = ("ga_", "sk-", "sk_", "pk-", "rk-", "gsk_", "xai-", "ghp_", "hf_", "AIza")
KEY = re.compile(r"\b(?:" + "|".join(map(re.escape, KEY_PREFIXES)) + r")[\w-]{8,}", re.IGNORECASE)


def quoted(name: str) -> str:
    """The key goes before the name is cut, or a piece of one would be left at its end."""
    return quoted_text(name)[:LONGEST]


def quoted_text(text: str) -> str:
    """A text of any length without what looks like a key."""
    return KEY.sub(REDACTED, text)
