"""What goes wrong with an upstream over aiohttp, as errors of the tree: one table, and the statuses."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import aiohttp

from apps.core.errors import AppError, RateLimitExceeded, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from apps.models.retry_after import parse_retry_after


@contextmanager
def translated_errors() -> Iterator[None]:
    """aiohttp's errors in, errors of apps.core.errors out."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise translate(error) from error


def translate(error: Exception) -> AppError:
    """The table's first match counts, so subclasses stand before their bases."""
    return next(make() for kind, make in ERRORS if isinstance(error, kind))


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
    (asyncio.TimeoutError, _timeout),
    (aiohttp.InvalidURL, _nonsense),
    (aiohttp.ClientConnectionError, _unreachable),
    (aiohttp.ClientPayloadError, _unreachable),
    (aiohttp.ClientError, _nonsense),
    (OSError, _unreachable),
]
