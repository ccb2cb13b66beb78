"""Rate limits a client address, by slowapi: counted before the body is looked at, so that bad requests count too."""

import itertools
import logging
import math
import time
from collections.abc import Callable

from fastapi import Request
from fastapi.routing import APIRoute
from limits import parse
from limits.errors import StorageError
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded as SlowapiExceeded
from slowapi.util import get_remote_address
from starlette.responses import Response

from apps.api.src import rate_windows
from apps.api.src.json_body import Handler, JsonRoute
from apps.core.errors import AppError, RateLimitExceeded
from apps.core.settings import Settings

REDIS_SECONDS = 0.5

log = logging.getLogger(__name__)


class RateLimits:
    """One limiter an app. Where its Redis is down it goes on in memory, for this process alone.

    slowapi inspects and wraps each call anew, which costs more than the rest of the gateway's own path. What it adds
    to its engine is the way around a Redis that is down; so where the counts are in memory the engine is asked
    directly.
    """

    def __init__(self, settings: Settings) -> None:
        in_redis = not settings.rate_limit_storage.startswith("memory")
        redis = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS, "wrap_exceptions": True}
        self._numbers = itertools.count()
        self._in_redis = in_redis
        self._limiter = Limiter(
            key_func=get_remote_address,
            enabled=settings.rate_limit_enabled,
            storage_uri=settings.rate_limit_storage if in_redis else rate_windows.URI,
            storage_options=redis if in_redis else {},
            in_memory_fallback_enabled=in_redis,
            key_style="endpoint",
        )

    def route_class(self, name: str, rate: str, base: type[APIRoute] = JsonRoute) -> type[APIRoute]:
        """The class of routes that share the budget ``name`` of ``rate`` ("10/minute") a client address."""
        limits = self

        class LimitedRoute(base):  # type: ignore[misc, valid-type]
            def get_route_handler(self) -> Handler:
                return limits._limited(super().get_route_handler(), name, rate)

        return LimitedRoute

    def count(self, request: Request, scope: str, rate: str) -> None:
        """Count a call that comes by another way against the budget of its route. Raises RateLimitExceeded."""
        if not self._limiter.enabled:
            return
        item, address, engine = parse(rate), get_remote_address(request), self._limiter.limiter
        try:
            allowed = engine.hit(item, address, scope)
            ends = engine.get_window_stats(item, address, scope).reset_time
        except StorageError:
            log.warning("Redis is away: a call by way of another route was not counted")
            return
        if not allowed:
            raise _too_many(str(item), _as_headers(item.amount, 0, ends), ends)

    def _limited(self, handler: Handler, scope: str, rate: str) -> Handler:
        if not self._limiter.enabled:
            return handler
        return self._by_slowapi(handler, scope, rate) if self._in_redis else self._by_engine(handler, scope, rate)

    def _by_engine(self, handler: Handler, scope: str, rate: str) -> Handler:
        """A fixed window of the engine's, counted and told in one step."""
        item, windows = parse(rate), self._limiter.limiter.storage
        expiry, amount = item.get_expiry(), item.amount

        async def limited(request: Request) -> Response:
            count, ends = windows.hit(item.key_for(get_remote_address(request), scope), expiry)
            if count > amount:
                raise _too_many(str(item), _as_headers(amount, 0, ends), ends)
            return await _with_headers(handler, request, lambda: _as_headers(amount, amount - count, ends))

        return limited

    def _by_slowapi(self, handler: Handler, scope: str, rate: str) -> Handler:
        async def handle(request: Request) -> Response:
            return await _with_headers(handler, request, lambda: self._headers(request))

        # slowapi keeps its limits by the function's name, and FastAPI may ask for a route's handler twice
        handle.__name__ = f"limited_{next(self._numbers)}"
        counted: Handler = self._limiter.shared_limit(rate, scope=scope)(handle)

        async def limited(request: Request) -> Response:
            try:
                return await counted(request)
            except SlowapiExceeded as exceeded:
                limit, _ = request.state.view_rate_limit
                headers = self._headers(request)
                latest = time.time() + limit.get_expiry()
                ends = min(float(headers.get("X-RateLimit-Reset", latest)), latest)
                raise _too_many(exceeded.detail, headers, ends) from None

        return limited

    def _headers(self, request: Request) -> dict[str, str]:
        """X-RateLimit-* of the limit that was counted for this request, if one was."""
        counted = getattr(request.state, "view_rate_limit", None)
        if counted is None:
            return {}
        limit, key = counted
        try:
            stats = self._limiter.limiter.get_window_stats(limit, *key)
        except StorageError:  # Redis went away since the hit; the next hit notices, and goes on in memory
            return {"X-RateLimit-Limit": str(limit.amount)}
        return _as_headers(limit.amount, stats.remaining, stats.reset_time)


async def _with_headers(handler: Handler, request: Request, headers: Callable[[], dict[str, str]]) -> Response:
    try:
        response = await handler(request)
    except AppError as error:
        error.headers.update(headers())
        raise
    response.raw_headers += [(name.lower().encode(), value.encode()) for name, value in headers().items()]
    return response


def _as_headers(limit: int, remaining: int, ends: float) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(math.ceil(ends)),
    }


def _too_many(rate: str, headers: dict[str, str], ends: float) -> AppError:
    return RateLimitExceeded(
        f"Rate limit exceeded: {rate}", details={"limit": rate}, headers=headers, retry_after=ends - time.time()
    )
