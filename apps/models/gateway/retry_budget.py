"""The retry budget: extra attempts are a share of the traffic, so that retries cannot multiply an outage.

The token bucket of Finagle's RetryBudget: each call deposits a share of a token, each extra attempt takes a whole one;
a small reserve lets a quiet service retry at all.
"""

SHARE = 0.2
RESERVE = 10.0
MOST = 100.0


class RetryBudget:
    """``share`` of the calls may have an extra attempt, beyond the first few."""

    def __init__(self, share: float = SHARE, reserve: float = RESERVE) -> None:
        self._share = share
        self._tokens = reserve

    def deposit(self) -> None:
        self._tokens = min(self._tokens + self._share, MOST)

    def withdraw(self) -> bool:
        """Take an extra attempt's token, if there is one."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
