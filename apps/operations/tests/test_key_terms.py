"""The terms of a key: what is written is what is kept, and what is wrong is said."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from apps.core.callers import LOCAL, Budget, Caller
from apps.operations.key_terms import KeyTerms, new_key, parse_budget, parse_expiry, shown_prefix


def test_budgets() -> None:
    assert parse_budget("5/month") == Budget(5.0, "month")
    assert parse_budget("0.25/day") == Budget(0.25, "day")
    for wrong in ("5", "5/year", "1e9/day", "5 / day", "", "nan/day", "inf/month"):
        with pytest.raises(ValueError, match="must look like"):
            parse_budget(wrong)
    for beyond in ("-5/day", "0/day", "0.0/day", "1000000001/day"):
        with pytest.raises(ValueError, match="must be more than 0 and at most 1000000000"):
            parse_budget(beyond)


def test_expiries() -> None:
    now = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
    assert parse_expiry("90d", now) == now + 90 * 86400
    assert parse_expiry("12h", now) == now + 12 * 3600
    assert parse_expiry("30m", now) == now + 1800
    assert parse_expiry("2026-11-26", now) == now + 12 * 3600
    assert parse_expiry("2026-11-25T14:00:00+01:00", now) == now + 3600
    for wrong in ("0d", "90", "d", "-1d", "soon", "2026-11-25", "2020-01-01", "9999999d"):
        with pytest.raises(ValueError, match="must "):
            parse_expiry(wrong, now)


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"name": ""},
        {"name": " "},
        {"name": "a\nb"},
        {"name": "x" * 101},
        {"name": "x", "models": []},
        {"name": "x", "models": [" gpt"]},
        {"name": "x", "models": "gpt"},
        {"name": "x", "admin": "yes"},
        {"name": "x", "rpm": 0},
        {"name": "x", "rpm": 1.5},
        {"name": "x", "ip": ["10.0.0.0/99"]},
        {"name": "x", "tenant": ""},
        {"name": "x", "tenant": "a b"},
        {"name": "x", "tenant": "shared"},
        {"name": "x", "semantic_cache": 0},
        {"name": "x", "semantic_cache": float("nan")},
        {"name": "x", "unknown": 1},
    ],
)
def test_wrong_terms_are_refused(terms: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        KeyTerms.model_validate(terms)


def test_networks_are_kept_as_networks() -> None:
    assert KeyTerms(name="x", ip=["10.1.2.3", "10.1.2.3/8", "2001:db8::1/32"]).ip == [
        "10.1.2.3/32",
        "10.0.0.0/8",
        "2001:db8::/32",
    ]


def test_keys_differ_and_their_prefix_is_seven_characters_of_them() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    for key in keys:
        assert shown_prefix(key) == f"{key[:7]}..."


def test_local_is_never_the_name_of_another_model() -> None:
    caller = Caller(tenant="t", models=(LOCAL, "gpt-4o*"))
    assert not caller.may_use("local")
    assert caller.may_use("gpt-4o-mini")
    assert not caller.may_use("GPT-4o-mini")
