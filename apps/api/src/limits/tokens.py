"""The tokens a minute of a key: the estimate is checked before a call, and what it really used is counted after it."""

from apps.api.src.limits.counts import Counts
from apps.api.src.limits.headers import Rule, minute_rule, standing, too_many
from apps.core.calls import CallRecord

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
