"""The periods of budgets: calendar days and months, in UTC."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from apps.core.callers import Period

if TYPE_CHECKING:
    pass

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
