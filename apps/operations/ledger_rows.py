"""A call as the ledger writes it: its row, its charge, its record in the journal, and the sums of usage by period.

A record of the journal is its length and its checksum, each four bytes, and the call: numbers in their places, and
texts with U+0000 between them. A length of 0 is the end. What is cut off is no record: its call was not answered.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, cast

from apps.core.callers import Budget, Caller, Period
from apps.core.calls import CUT_OFF, CacheUse, CallRecord, Usage

DAY = 86_400


def day_of(time: float) -> str:
    """As 2026-11-25."""
    return _written(int(time // DAY))


@lru_cache(maxsize=8)
def _written(day: int) -> str:
    return datetime.fromtimestamp(day * DAY, UTC).strftime("%Y-%m-%d")


def period_of(period: Period, time: float) -> str:
    """The day, or the month as 2026-11."""
    return day_of(time) if period == "day" else day_of(time)[:7]


def end_of(period: Period, time: float) -> float:
    """When the next one begins."""
    midnight = datetime.fromtimestamp(time, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (midnight + timedelta(days=1)).timestamp()
    # any day of the next month
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()


BILLION = 1_000_000_000
MOST = 2**62
PAID = ("off", "miss")


@dataclass(frozen=True, slots=True)
class Charge:
    """Billionths of a dollar that a key's budget of a period pays."""

    key_id: str
    period: str
    amount: int


@dataclass(frozen=True, slots=True)
class Entry:
    """``charge`` is None where no budget pays."""

    id: str
    row: dict[str, Any]
    charge: Charge | None


def entry_of(call: CallRecord) -> Entry:
    """The call as it was closed."""
    cost, supposed = _cost(call)
    row = {
        "id": call.id,
        "begun_at": call.begun_at,
        "day": day_of(call.begun_at),
        "tenant": _text(call.caller.tenant, 100),
        "key_id": call.caller.key_id,
        "route": call.route,
        "asked": _text(call.requested_model, 200),
        "model": _text(call.model, 200),
        "provider": _text(call.provider, 100),
        "outcome": call.outcome,
        "cache": call.cache,
        "streamed": call.streamed,
        "attempts": call.attempts,
        "queued": call.queued,
        "first_token": call.first_token,
        "duration": call.duration,
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.completion_tokens,
        "cached_tokens": call.cached_tokens,
        "estimated": call.estimated or supposed,
        "cost": cost,
        "saved": billionths(call.saved),
    }
    return Entry(call.id, row, _charge(call, cost or 0))


def budget_key(call: CallRecord) -> tuple[str, str]:
    """Whose budget of which period pays; only for callers who have one."""
    budget = call.caller.budget
    if budget is None:
        raise ValueError("the caller has no budget")
    return call.caller.key_id or call.caller.tenant, period_of(budget.period, call.begun_at)


def billionths(dollars: float) -> int:
    return min(round(dollars * BILLION), MOST)


def _charge(call: CallRecord, cost: int) -> Charge | None:
    return None if call.caller.budget is None else Charge(*budget_key(call), cost)


def _cost(call: CallRecord) -> tuple[int | None, bool]:
    """What the call cost, and whether that is only supposed.

    A call that was cut off before anything was known costs what was reserved: its upstream may well send the bill.
    """
    if call.cache not in PAID:
        return 0, False
    if call.cost is not None:
        return billionths(call.cost), False
    if call.outcome in CUT_OFF and call.estimated_cost:
        return billionths(call.estimated_cost), True
    return None, False


def _text(text: str, most: int) -> str:
    """PostgreSQL's texts cannot hold U+0000."""
    return text[:most].replace("\0", "")


GROUPS = ("day", "tenant", "key", "model", "route")
SUMS = (
    "calls",
    "failed",
    "cache_hits",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cost_usd",
    "saved_usd",
)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """Days as 2026-11-25, both included; ``only`` are values of groups that all calls must have."""

    first: str
    last: str
    group_by: Sequence[str]
    only: Mapping[str, str] = field(default_factory=dict)
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True)
class UsageReport:
    """A page of rows, in the order of their groups; the sums of all pages; and whether more follow."""

    rows: Sequence[Row]
    total: Row
    more: bool


FORMAT = 3
HEADER = struct.Struct("<II")
# format and facts; counts; times and money
NUMBERS = struct.Struct("<BB4q8d")
TEXTS = 10
STREAMED, HAS_KEY, HAS_BUDGET, HAS_USAGE, ESTIMATED = 1, 2, 4, 8, 16
UNKNOWN = math.nan
MOST_TOKENS = 2**62
MOST_CHARACTERS = 200
END = b"\0" * HEADER.size


def encoded(call: CallRecord) -> bytes:
    """A record with all that a row is made of: numbers in their places, and texts."""
    caller, usage, budget = call.caller, call.usage, call.caller.budget
    first_token, spent, estimated_cost = call.first_token, call.spent, call.estimated_cost
    facts = STREAMED if call.streamed else 0
    key_id, period, budget_usd, cost = caller.key_id, "", 0.0, None
    prompt = completion = cached = 0
    if key_id is not None:
        facts |= HAS_KEY
    if budget is not None:
        facts |= HAS_BUDGET
        period, budget_usd = budget.period, budget.usd
    if usage is not None:
        facts |= HAS_USAGE | (ESTIMATED if usage.estimated else 0)
        prompt, completion, cached, cost = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.cost
        if prompt > MOST_TOKENS or completion > MOST_TOKENS or cached > MOST_TOKENS:
            # an upstream may say any number
            prompt, completion, cached = (min(count, MOST_TOKENS) for count in (prompt, completion, cached))
    texts = (
        call.id,
        caller.tenant,
        key_id or "",
        period,
        call.route,
        call.requested_model[:MOST_CHARACTERS],
        call.model[:MOST_CHARACTERS],
        call.provider,
        call.outcome,
        call.cache,
    )
    text = "\0".join(texts)
    if text.count("\0") >= len(texts):
        # a caller may ask for any model; a row has no U+0000 either
        text = "\0".join([one.replace("\0", "") for one in texts])
    numbers = NUMBERS.pack(
        FORMAT,
        facts,
        call.attempts,
        prompt,
        completion,
        cached,
        call.begun_at,
        call.queued,
        call.duration,
        budget_usd,
        UNKNOWN if first_token is None else first_token,
        UNKNOWN if spent is None else spent,
        UNKNOWN if estimated_cost is None else estimated_cost,
        UNKNOWN if cost is None else cost,
    )
    return numbers + text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> CallRecord:
    """Raises ValueError for what `encoded` did not make."""
    if len(data) < NUMBERS.size or data[0] != FORMAT:
        raise ValueError("another format")
    _, facts, attempts, prompt, completion, cached, *rest = NUMBERS.unpack_from(data)
    begun_at, queued, duration, budget_usd = rest[:4]
    first_token, spent, estimated_cost, cost = (None if math.isnan(number) else number for number in rest[4:])
    texts = data[NUMBERS.size :].decode("utf-8", "surrogatepass").split("\0")
    if len(texts) != TEXTS:
        raise ValueError("another number of texts")
    id, tenant, key_id, period, route, requested_model, model, provider, outcome, cache = texts
    usage = None
    if facts & HAS_USAGE:
        usage = Usage(prompt, completion, cached, cost, estimated=bool(facts & ESTIMATED))
    return CallRecord(
        Caller(
            tenant,
            key_id if facts & HAS_KEY else None,
            budget=Budget(budget_usd, cast(Period, period)) if facts & HAS_BUDGET else None,
        ),
        route,
        requested_model,
        streamed=bool(facts & STREAMED),
        estimated_cost=estimated_cost,
        id=id,
        begun_at=begun_at,
        model=model,
        provider=provider,
        outcome=outcome,
        cache=cast(CacheUse, cache),
        attempts=attempts,
        queued=queued,
        first_token=first_token,
        duration=duration,
        usage=usage,
        spent=spent,
    )


def records_of(data: bytes) -> Iterator[bytes]:
    """The records of a file's bytes that are whole, without their lengths and checksums."""
    at = 0
    while at + HEADER.size <= len(data):
        length, checksum = HEADER.unpack_from(data, at)
        record = data[at + HEADER.size : at + HEADER.size + length]
        if not length or len(record) < length or zlib.crc32(record) != checksum:
            return
        yield record
        at += HEADER.size + length
