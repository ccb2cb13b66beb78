"""Days and months end when they end in UTC."""

from datetime import UTC, datetime

import pytest

from apps.core.callers import Period
from apps.operations.ledger_rows import day_of, end_of, period_of


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("time", "period", "name", "end"),
    [
        ("2026-11-25T13:00:00", "day", "2026-11-25", "2026-11-26T00:00:00"),
        ("2026-11-25T23:59:59.9", "day", "2026-11-25", "2026-11-26T00:00:00"),
        ("2026-11-25T00:00:00", "month", "2026-11", "2026-12-01T00:00:00"),
        ("2026-12-31T23:59:59", "month", "2026-12", "2027-01-01T00:00:00"),
        ("2028-02-29T12:00:00", "day", "2028-02-29", "2028-03-01T00:00:00"),
        ("2027-01-31T12:00:00", "month", "2027-01", "2027-02-01T00:00:00"),
    ],
)
def test_a_period_and_its_end(time: str, period: Period, name: str, end: str) -> None:
    assert period_of(period, at(time)) == name
    assert end_of(period, at(time)) == at(end)


def test_a_day_is_of_utc() -> None:
    assert day_of(0) == "1970-01-01"
    assert day_of(at("2026-11-25T23:59:59")) == "2026-11-25"
