"""What a caller is told of its limits: names, rates and what is left of each, and the tightest on its own."""

import math
import time

import pytest
from limits import RateLimitItemPerMinute, parse

from apps.api.src.limits.counts import Count
from apps.api.src.limits.limiter import Standing, headers, minute_rule, rule, standing, tell, too_many
from apps.core.errors import RateLimitExceeded

FAR = time.time() + 1000


def told(standings: list[Standing]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers(standings)}


def test_a_rule_counts_under_the_engines_own_key() -> None:
    for of, item, name in (
        (rule("generate", parse("10/hour")), parse("10/hour"), "generate"),
        (minute_rule("key", 7), RateLimitItemPerMinute(7), "key"),
    ):
        assert of.key("1.2.3.4") == item.key_for("1.2.3.4", name)
        assert (of.amount, of.seconds) == (item.amount, item.get_expiry())
    assert str(minute_rule("key", 7)) == "7 per 1 minute"
    assert minute_rule("key", 7).key("a") != minute_rule("key", 8).key("a") != minute_rule("tokens", 8).key("a")


def test_a_policy_names_its_limit_its_window_and_its_unit() -> None:
    assert rule("generate", parse("10/hour")).policy == b'"generate";q=10;w=3600'
    assert minute_rule("key-tokens", 500, "tokens").policy == b'"key-tokens";q=500;w=60;qu="tokens"'


@pytest.mark.parametrize(
    ("count", "expected", "left"),
    [
        (Count(0, FAR), 0, 10),
        (Count(3, FAR), 0, 7),
        (Count(3, FAR), 2, 5),
        (Count(11, FAR), 0, -1),
        (Count(3, FAR, 4), 0, -1),  # a quarter of ten is two
        (Count(1, FAR, 20), 0, 0),  # a share is one at least
    ],
)
def test_what_is_left_is_of_the_limit_or_of_this_processs_share(count: Count, expected: int, left: int) -> None:
    of = minute_rule("key", 10)
    assert standing(of, count, expected) == Standing(of, left, FAR)


def test_all_limits_are_listed_and_the_one_with_the_least_left_stands_alone() -> None:
    wide, narrow = rule("generate", parse("100/hour")), minute_rule("key", 10)
    found = told([Standing(wide, 40, FAR + 0.5), Standing(narrow, 3, FAR)])
    assert found["x-ratelimit-limit"] == "10"
    assert found["x-ratelimit-remaining"] == "3"
    assert found["x-ratelimit-reset"] == str(math.ceil(FAR))
    assert found["ratelimit-policy"] == '"generate";q=100;w=3600, "key";q=10;w=60'
    first, second = found["ratelimit"].split(", ")
    assert first.startswith('"generate";r=40;t=')
    assert second.startswith('"key";r=3;t=')
    assert 0 < int(second.rpartition("=")[2]) <= 1001
    # by what is left of each, not by numbers: 3 of 10 is more than 20 of 100
    assert told([Standing(wide, 20, FAR), Standing(narrow, 3, FAR)])["x-ratelimit-limit"] == "100"


def test_nothing_is_below_zero() -> None:
    found = told([Standing(minute_rule("key", 10), -4, time.time() - 5)])
    assert found["x-ratelimit-remaining"] == "0"
    assert found["ratelimit"] == '"key";r=0;t=0'


def test_a_refusal_says_which_limit_and_when_to_come_back() -> None:
    over = Standing(minute_rule("key", 10), -1, time.time() + 30)
    error = too_many(over, [Standing(rule("generate", parse("5/hour")), 4, FAR), over], source="key")
    assert isinstance(error, RateLimitExceeded)
    assert error.message == "Rate limit exceeded: 10 per 1 minute"
    assert error.details == {"limit": "10 per 1 minute", "source": "key"}
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 30
    assert error.headers["x-ratelimit-remaining"] == "0"
    assert error.headers["ratelimit-policy"] == '"generate";q=5;w=3600, "key";q=10;w=60'


def test_what_a_limit_further_in_has_told_is_kept_and_listed_last() -> None:
    inner = too_many(Standing(minute_rule("tokens", 10), -1, FAR), [Standing(minute_rule("tokens", 10), -1, FAR)])
    tell(inner, [Standing(rule("generate", parse("5/hour")), 4, FAR)])
    assert inner.headers["x-ratelimit-limit"] == "10"
    assert inner.headers["ratelimit-policy"] == '"generate";q=5;w=3600, "tokens";q=10;w=60'
    assert inner.headers["ratelimit"].startswith('"generate";r=4;')
    assert '"tokens";r=0;' in inner.headers["ratelimit"]
