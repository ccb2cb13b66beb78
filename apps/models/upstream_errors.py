"""What goes wrong with an upstream over HTTP, as errors of the tree: one table, whichever client met it.

Retry-After of an answer, in seconds: RFC 9110 (10.2.3), and the milliseconds that OpenAI sends beside it.
"""

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from apps.core.errors import (
    AppError,
    RateLimitExceeded,
    Rejection,
    Timeout,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from apps.transport.errors import BadRequest, ConnectionFailed, Cut, HttpFailure, ProtocolError

# an upstream that asks for more means something else
LONGEST_RETRY_AFTER = 86_400.0


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """The wait that an answer asks for, from 0 to a day; None where it asks for none or for nonsense."""
    milliseconds = _number(headers.get("retry-after-ms"))
    value = headers.get("retry-after")
    seconds = _number(value) if milliseconds is None else milliseconds / 1000
    if seconds is None and value is not None:
        seconds = _until(value)
    return None if seconds is None else min(seconds, LONGEST_RETRY_AFTER)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return max(number, 0.0) if math.isfinite(number) else None


def _until(http_date: str) -> float | None:
    try:
        when = parsedate_to_datetime(http_date)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max((when - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, OverflowError):  # years and zones that no calendar has
        return None


def status_error(status: int, headers: Mapping[str, str], rejection: Rejection | None = None) -> AppError:
    """What an answer other than 200 means: RFC 9110's classes, and 429 as what it is.

    ``rejection``: it is the caller's fault, and this is what the upstream says of it.
    """
    retry_after = parse_retry_after(headers)
    if status == 429:
        return RateLimitExceeded("Rate limit exceeded at the upstream", source="upstream", retry_after=retry_after or 1)
    if status >= 500:
        cause = {"cause": f"the upstream answered {status}"}
        return UpstreamUnavailable(
            "The upstream failed", details=cause, retry_after=retry_after, upstream_status=status
        )
    if rejection is not None:
        return UpstreamRejected(rejection)
    return UpstreamError("The upstream refused the call", upstream_status=status)


def timed_out() -> AppError:
    return UpstreamTimeout("The upstream did not answer in time", details={"cause": "timeout"})


def unreachable() -> AppError:
    return UpstreamUnavailable("The upstream could not be reached", details={"cause": "network error"})


def not_understood() -> AppError:
    return UpstreamError("The upstream's answer could not be understood")


def nonsense(message: str) -> UpstreamError:
    """What is wrong with an answer that began well, with a status of 200."""
    return UpstreamError(message, upstream_status=200)


def parsed_object(data: bytes) -> dict[str, Any]:
    """The JSON object of an answer or a chunk. Raises UpstreamError where it is none, or reports an error."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        raise nonsense("The upstream's answer is not JSON") from None
    if not isinstance(parsed, dict):
        raise nonsense("The upstream's answer is not a JSON object")
    if parsed.get("error"):
        raise nonsense("The upstream reported an error in its answer")
    return parsed


FAILURES = (HttpFailure, TimeoutError)


def translate(error: Exception, *, begun: bool = False) -> AppError:
    """The table's first match counts, so subclasses stand before their bases.

    ``begun``: the upstream had answered 200 and something of its answer, so this is no error to try again after.
    """
    made = next(make() for kind, make in ERRORS if isinstance(error, kind))
    if not begun:
        return made
    if isinstance(made, UpstreamTimeout):
        return Timeout("The upstream fell silent in its answer", details=made.details, upstream_status=200)
    if isinstance(made, UpstreamUnavailable):
        return nonsense("The upstream's answer was cut off")
    return made


ERRORS: list[tuple[type[Exception], Callable[[], AppError]]] = [
    (TimeoutError, timed_out),
    (BadRequest, not_understood),
    (ConnectionFailed, unreachable),
    (Cut, unreachable),
    (ProtocolError, not_understood),
]
