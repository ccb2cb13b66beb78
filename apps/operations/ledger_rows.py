"""The ledger's words: days and periods, the row and the charge of a call, and the sums of usage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from apps.core.callers import Period
from apps.core.calls import DISCONNECTED, CallRecord

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
        "asked": _text(call.asked, 200),
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

    A caller who left before anything was known pays what was reserved: his upstream may well send the bill.
    """
    if call.cache not in PAID:
        return 0, False
    if call.cost is not None:
        return billionths(call.cost), False
    if call.outcome == DISCONNECTED and call.estimated_cost:
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
