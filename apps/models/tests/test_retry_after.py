"""Retry-After is read as RFC 9110 writes it, and nonsense in it is no wait at all."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.models.upstream_errors import parse_retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e400"}, None),
        ({"retry-after": "Mon, 99 Foo 2026 99:99:99 GMT"}, None),
    ],
)
def test_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers) == seconds


def test_a_date_is_the_time_until_then() -> None:
    later = datetime.now(UTC) + timedelta(seconds=30)
    seconds = parse_retry_after({"retry-after": format_datetime(later, usegmt=True)})
    assert seconds is not None
    assert 28 < seconds <= 30


def test_a_date_without_a_zone_is_utc() -> None:
    later = (datetime.now(UTC) + timedelta(seconds=30)).strftime("%a, %d %b %Y %H:%M:%S -0000")
    seconds = parse_retry_after({"retry-after": later})
    assert seconds is not None
    assert 28 < seconds <= 30


def test_a_date_in_the_past_is_no_wait() -> None:
    assert parse_retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


@given(st.text(), st.text())
@pytest.mark.long
def test_no_value_raises(seconds: str, milliseconds: str) -> None:
    value = parse_retry_after({"retry-after": seconds, "retry-after-ms": milliseconds})
    assert value is None or value >= 0
