"""The rules that a request is counted by, what its caller is told of them, and the tokens a minute of a key.

``RateLimit`` and ``RateLimit-Policy``, after the IETF's draft (httpapi-ratelimit-headers, 11), list all of them;
``X-RateLimit-*``, which more clients read, tells the one with the least left. Tokens are estimated and checked before a
call, and what it really used is counted after it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from limits import RateLimitItem, RateLimitItemPerMinute

from apps.api.src.limits.counts import Count, Counts
from apps.core.calls import CallRecord
from apps.core.errors import AppError, RateLimitExceeded

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
    tightest = standings[0]
    if len(standings) > 1:
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
        told = error.headers.get(name)
        if told is None:
            error.headers[name] = value
        elif name in LISTS:
            error.headers[name] = f"{value}, {told}"


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
