"""What goes wrong with an upstream over aiohttp, as errors of the tree: one table, and the statuses."""

from collections.abc import Callable, Mapping

import aiohttp

from apps.core.errors import AppError, RateLimitExceeded, Timeout, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from apps.models.gateway.blocks import nonsense
from apps.models.retry_after import parse_retry_after

FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


def translate(error: Exception, *, begun: bool = False) -> AppError:
    """The table's first match counts, so subclasses stand before their bases.

    ``begun``: the upstream had answered 200 and something of its answer, so this is no error to try again after.
    """
    made = next(make() for kind, make in ERRORS if isinstance(error, kind))
    if not begun:
        return made
    if isinstance(made, UpstreamTimeout):
        return Timeout("The upstream fell silent in its answer", details={**made.details, "upstream_status": 200})
    if isinstance(made, UpstreamUnavailable):
        return nonsense("The upstream's answer was cut off")
    return made


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


def _timeout() -> AppError:
    return UpstreamTimeout("The upstream did not answer in time", details={"cause": "timeout"})


def _unreachable() -> AppError:
    return UpstreamUnavailable("The upstream could not be reached", details={"cause": "network error"})


def _nonsense() -> AppError:
    return UpstreamError("The upstream's answer could not be understood")


ERRORS: list[tuple[type[Exception], Callable[[], AppError]]] = [
    (TimeoutError, _timeout),
    (aiohttp.InvalidURL, _nonsense),
    (aiohttp.ClientConnectionError, _unreachable),
    (aiohttp.ClientPayloadError, _unreachable),
    (aiohttp.ClientError, _nonsense),
    (OSError, _unreachable),
]
