"""Rate limits a client address, by slowapi: counted before the body is looked at, so that bad requests count too."""

import itertools
import math
import time
from contextlib import suppress

from fastapi import Request
from fastapi.routing import APIRoute
from limits.errors import StorageError
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded as SlowapiExceeded
from slowapi.util import get_remote_address
from starlette.responses import Response

from apps.api.src.json_body import Handler, JsonRoute
from apps.core.errors import AppError, RateLimitExceeded
from apps.core.settings import Settings

REDIS_SECONDS = 0.5


class RateLimits:
    """One limiter an app. Where its Redis is down it goes on in memory, for this process alone."""

    def __init__(self, settings: Settings) -> None:
        in_redis = not settings.rate_limit_storage.startswith("memory")
        redis = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS, "wrap_exceptions": True}
        self._numbers = itertools.count()
        self._limiter = Limiter(
            key_func=get_remote_address,
            enabled=settings.rate_limit_enabled,
            storage_uri=settings.rate_limit_storage,
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

    def _limited(self, handler: Handler, scope: str, rate: str) -> Handler:
        async def handle(request: Request) -> Response:
            try:
                response = await handler(request)
            except AppError as error:
                error.headers.update(self._headers(request))
                raise
            response.headers.update(self._headers(request))
            return response

        # slowapi keeps its limits by the function's name, and FastAPI may ask for a route's handler twice
        handle.__name__ = f"limited_{next(self._numbers)}"
        counted: Handler = self._limiter.shared_limit(rate, scope=scope)(handle)

        async def limited(request: Request) -> Response:
            try:
                return await counted(request)
            except SlowapiExceeded as exceeded:
                raise self._too_many(request, exceeded) from None

        return limited

    def _headers(self, request: Request) -> dict[str, str]:
        """X-RateLimit-* of the limit that was counted for this request, if one was."""
        counted = getattr(request.state, "view_rate_limit", None)
        if counted is None:
            return {}
        limit, key = counted
        headers = {"X-RateLimit-Limit": str(limit.amount)}
        with suppress(StorageError):  # Redis went away since the hit; the next hit notices, and goes on in memory
            stats = self._limiter.limiter.get_window_stats(limit, *key)
            headers["X-RateLimit-Remaining"] = str(stats.remaining)
            headers["X-RateLimit-Reset"] = str(math.ceil(stats.reset_time))
        return headers

    def _too_many(self, request: Request, exceeded: SlowapiExceeded) -> AppError:
        limit, _ = request.state.view_rate_limit
        headers = self._headers(request)
        opens = float(headers.get("X-RateLimit-Reset", time.time() + limit.get_expiry()))
        return RateLimitExceeded(
            f"Rate limit exceeded: {exceeded.detail}",
            details={"limit": exceeded.detail},
            headers=headers,
            retry_after=min(opens - time.time(), limit.get_expiry()),
        )
