"""What an upstream's failures are in the error tree, whichever client met them: the words stand here once."""

import json
from collections.abc import Mapping
from typing import Any

from apps.core.errors import AppError, RateLimitExceeded, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from apps.models.retry_after import parse_retry_after


def status_error(status: int, headers: Mapping[str, str]) -> AppError:
    """What an answer other than 200 means: RFC 9110's classes, and 429 as what it is."""
    retry_after = parse_retry_after(headers)
    details = {"upstream_status": status}
    if status == 429:
        return RateLimitExceeded(
            "Rate limit exceeded at the upstream", details={"source": "upstream"}, retry_after=retry_after or 1
        )
    if status >= 500:
        cause = {**details, "cause": f"the upstream answered {status}"}
        return UpstreamUnavailable("The upstream failed", details=cause, retry_after=retry_after)
    return UpstreamError("The upstream refused the call", details=details)


def timed_out() -> AppError:
    return UpstreamTimeout("The upstream did not answer in time", details={"cause": "timeout"})


def unreachable() -> AppError:
    return UpstreamUnavailable("The upstream could not be reached", details={"cause": "network error"})


def not_understood() -> AppError:
    return UpstreamError("The upstream's answer could not be understood")


def nonsense(message: str) -> UpstreamError:
    """What is wrong with an answer that began well, with a status of 200."""
    return UpstreamError(message, details={"upstream_status": 200})


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
