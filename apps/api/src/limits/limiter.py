"""Rate limits a client address, and a key's own on top: requests, tokens, and the headers that report both.

Requests are counted before the body is looked at, so that bad ones count too. ``RateLimit`` and ``RateLimit-Policy``,
after the IETF's draft (httpapi-ratelimit-headers, 11), list all limits; ``X-RateLimit-*``, which more clients read,
tells the one with the least left. Tokens are estimated and checked before a call, and what it really used is counted
after it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from fastapi import Request
from fastapi.routing import APIRoute
from limits import RateLimitItem, RateLimitItemPerMinute, parse
from slowapi import Limiter
from slowapi.util import get_remote_address
from starlette.responses import Response

from apps.api.src.auth.authentication import caller_of
from apps.api.src.http.request import Handler, JsonRoute
from apps.api.src.http.streaming import StreamedResponse
from apps.api.src.limits.counts import URI, Count, Counts, LocalCounts, SharedCounts, WindowCounts
from apps.api.src.limits.file_counts import SCHEME, FileCounts
from apps.core.callers import Caller
from apps.core.calls import CallRecord
from apps.core.errors import AppError, RateLimitExceeded
from apps.core.settings import Settings

Raw = list[tuple[bytes, bytes]]
LISTS = ("ratelimit", "ratelimit-policy")


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit: the engine's ``item``, and its name and policy as the headers write them."""

    quoted: bytes
    item: RateLimitItem
    amount: int
    seconds: int
    policy: bytes
    tail: str

    def __str__(self) -> str:
        return str(self.item)

    def key(self, who: str) -> str:
        """The same as the engine's own `key_for`, which takes five times as long."""
        return f"{self.item.namespace}/{who}{self.tail}"


def rule(name: str, item: RateLimitItem, unit: str = "") -> Rule:
    policy = f'"{name}";q={item.amount};w={item.get_expiry()}' + (f';qu="{unit}"' if unit else "")
    tail = item.key_for("", name).removeprefix(item.namespace + "/")
    return Rule(f'"{name}"'.encode(), item, item.amount, item.get_expiry(), policy.encode(), tail)


@lru_cache(maxsize=1024)
def minute_rule(name: str, amount: int, unit: str = "") -> Rule:
    """The limit of a key: so many a minute."""
    return rule(name, RateLimitItemPerMinute(amount), unit)


class Standing(NamedTuple):
    """A rule, and where a caller stands with it."""

    rule: Rule
    left: int
    ends: float


def standing(of: Rule, count: Count, expected: int = 0) -> Standing:
    """``left`` is below 0 where the count, and what is ``expected`` besides, is over the limit or its local share."""
    return Standing(of, max(1, of.amount // count.share) - count.used - expected, count.ends)


def headers(standings: Sequence[Standing]) -> Raw:
    """In the form that a response keeps them in."""
    now = time.time()
    tightest = min(standings, key=lambda one: one.left / one.rule.amount)
    return [
        (b"x-ratelimit-limit", b"%d" % tightest.rule.amount),
        (b"x-ratelimit-remaining", b"%d" % max(0, tightest.left)),
        (b"x-ratelimit-reset", b"%d" % math.ceil(tightest.ends)),
        (b"ratelimit", b", ".join([_state(one, now) for one in standings])),
        (b"ratelimit-policy", b", ".join([one.rule.policy for one in standings])),
    ]


def tell(error: AppError, standings: Sequence[Standing]) -> None:
    """Put them into an error's headers; what a limit further in has put there is kept, and listed behind these."""
    for raw_name, raw_value in headers(standings):
        name, value = raw_name.decode(), raw_value.decode()
        inner = error.headers.get(name)
        if inner is None:
            error.headers[name] = value
        elif name in LISTS:
            error.headers[name] = f"{value}, {inner}"


def too_many(over: Standing, standings: Sequence[Standing], **details: object) -> AppError:
    """The refusal by the rule that is used up."""
    rate = str(over.rule)
    error = RateLimitExceeded(
        f"Rate limit exceeded: {rate}", details={"limit": rate, **details}, retry_after=over.ends - time.time()
    )
    tell(error, standings)
    return error


def _state(one: Standing, now: float) -> bytes:
    return b"%b;r=%d;t=%d" % (one.rule.quoted, max(0, one.left), max(0, math.ceil(one.ends - now)))


BY_TOKENS = "key-tokens"
PAID = ("off", "miss")


class TokenLimits:
    """A Bookkeeper. The estimates of calls that are under way in this process count until their true use does."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        # by the call's id: where it counts, and its estimate
        self._expected: dict[str, tuple[str, int]] = {}
        self._under_way: dict[str, int] = {}

    async def opening(self, call: CallRecord) -> None:
        limit = call.caller.tokens_per_minute
        if limit is None:
            return
        rule = _rule(limit)
        key = rule.key(call.caller.key_id or call.caller.tenant)
        count = await self._counts.hit(key, rule.seconds, 0)
        expected = self._under_way.get(key, 0) + call.estimated_tokens
        stands = standing(rule, count, expected)
        if stands.left < 0:
            raise too_many(stands, [stands], source="key", unit="tokens", estimated=call.estimated_tokens)
        self._under_way[key] = expected
        self._expected[call.id] = key, call.estimated_tokens

    def closing(self, call: CallRecord) -> None:
        limit = call.caller.tokens_per_minute
        if limit is None:
            return
        key, expected = self._expected.pop(call.id)
        left = self._under_way.pop(key) - expected
        if left:
            self._under_way[key] = left
        used = (call.prompt_tokens or 0) + (call.completion_tokens or 0)
        if used and call.cache in PAID:
            self._counts.add(key, _rule(limit).seconds, used)


def _rule(limit: int) -> Rule:
    return minute_rule(BY_TOKENS, limit, "tokens")


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
