"""Rate limits a client address, and a key's own on top: counted before the body is looked at, so that bad requests
count too."""

from collections.abc import Sequence
from pathlib import Path

from fastapi import Request
from fastapi.routing import APIRoute
from limits import parse
from slowapi import Limiter
from slowapi.util import get_remote_address
from starlette.responses import Response

from apps.api.src.auth.caller import caller_of
from apps.api.src.http.json_body import Handler, JsonRoute
from apps.api.src.http.streaming import StreamedResponse
from apps.api.src.limits.counts import URI, Counts, LocalCounts, SharedCounts, WindowCounts
from apps.api.src.limits.file_counts import SCHEME, FileCounts
from apps.api.src.limits.rules import Rule, Standing, headers, minute_rule, rule, standing, tell, too_many
from apps.core.callers import Caller
from apps.core.errors import AppError
from apps.core.settings import Settings

BY_KEY = "key"


class RateLimits:
    """One a service. ``counts`` is where they are kept, for limits of other things than requests.

    slowapi inspects and wraps each call anew, and its way to Redis blocks the event loop; so its Limiter keeps the
    engine and the counts of this process, and is not put around the calls.
    """

    def __init__(self, settings: Settings) -> None:
        self._limiter = Limiter(key_func=get_remote_address, enabled=settings.rate_limit_enabled, storage_uri=URI)
        local, uri = self._limiter.limiter.storage, settings.rate_limit_storage
        self.counts = _counts(uri, local, settings.api_workers)

    def route_class(self, name: str, rate: str, base: type[APIRoute] = JsonRoute) -> type[APIRoute]:
        """The class of routes that share the budget ``name`` of ``rate`` ("10/minute") a client address."""
        limits = self

        class LimitedRoute(base):  # type: ignore[misc, valid-type]
            def get_route_handler(self) -> Handler:
                return limits._limited(super().get_route_handler(), name, rate)

        return LimitedRoute

    async def count(self, request: Request, name: str, rate: str) -> None:
        """Count a call that comes by way of another route against the budget of its own. Raises RateLimitExceeded."""
        if self._limiter.enabled:
            reached = await self._hit(rule(name, parse(rate)), get_remote_address(request))
            if reached.left < 0:
                raise too_many(reached, [reached])

    def _limited(self, handler: Handler, name: str, rate: str) -> Handler:
        by_address = rule(name, parse(rate)) if self._limiter.enabled else None

        async def limited(request: Request) -> Response:
            caller = caller_of(request)
            standings = []
            if by_address is not None:
                standings.append(await self._hit(by_address, get_remote_address(request)))
                if standings[0].left < 0:
                    raise too_many(standings[0], standings)
            if caller.requests_per_minute is not None:
                standings.append(await self._hit_by_key(caller, caller.requests_per_minute))
                if standings[-1].left < 0:
                    raise too_many(standings[-1], standings, source=BY_KEY)
            return await _answered(handler, request, standings) if standings else await handler(request)

        return limited

    async def _hit_by_key(self, caller: Caller, amount: int) -> Standing:
        return await self._hit(minute_rule(BY_KEY, amount), caller.key_id or caller.tenant)

    async def _hit(self, of: Rule, who: str) -> Standing:
        return standing(of, await self.counts.hit(of.key(who), of.seconds))


def _counts(uri: str, local: WindowCounts, processes: int) -> Counts:
    """Where RATE_LIMIT_STORAGE says."""
    if uri.startswith(SCHEME):
        return FileCounts(Path(uri.removeprefix(SCHEME)), local, processes)
    return LocalCounts(local) if uri.startswith("memory") else SharedCounts(uri, local)


async def _answered(handler: Handler, request: Request, standings: Sequence[Standing]) -> Response:
    """The handler's answer or error, with what is left in its headers."""
    try:
        response = await handler(request)
    except AppError as error:
        tell(error, standings)
        raise
    response.raw_headers += headers(standings)
    if isinstance(response, StreamedResponse):
        response.when_refused(lambda error: tell(error, standings))
    return response
