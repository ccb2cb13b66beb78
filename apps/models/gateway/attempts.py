"""Attempts: one call, tried on its candidates until one has begun to answer.

Nothing is tried again once a first delta is there. Another target is tried at once; the same one after a wait. Extra
attempts come out of the retry budget.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

from apps.core.errors import AppError, ModelUnavailable, Overloaded, RateLimitExceeded, Timeout, UpstreamError
from apps.models.gateway.retry_budget import RetryBudget
from apps.models.gateway.targets import Target
from apps.models.gateway.wire import Receipt

T = TypeVar("T")
Opener = Callable[[Target], Awaitable[T]]

LONGEST_WAIT = 8.0
JITTER = 0.1
# a target that refuses with one of these may do so for reasons of its own: its key, its models, its load
OWN_REASONS = frozenset({401, 402, 403, 404, 408, 409})


@dataclass(slots=True)
class Opened(Generic[T]):
    """A call that has begun to answer; ``close`` gives its place back and must be awaited once."""

    value: T
    target: Target
    _held: AsyncExitStack

    def closes(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have ``close`` called before the place is given back."""
        self._held.push_async_callback(close)

    async def close(self) -> None:
        await self._held.aclose()


class Attempts:
    """``most`` attempts on the same target; ``backoff`` seconds before the second, doubling, with jitter."""

    def __init__(self, *, most: int, backoff: float, budget: RetryBudget) -> None:
        self._most = most
        self._backoff = backoff
        self._budget = budget

    async def open(
        self,
        candidates: Sequence[Target],
        opener: Opener[T],
        receipt: Receipt,
        *,
        streamed: bool,
        deadline: float | None = None,
    ) -> Opened[T]:
        """The first candidate's answer that begins. ``deadline`` is a time of the loop's clock.

        Raises the last error, with ``details.attempts``; Timeout where the deadline cannot be met.
        """
        self._budget.deposit()
        while True:
            target = candidates[receipt.attempts % len(candidates)]
            receipt.attempts += 1
            receipt.tried.append(target.name)
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    return await self._attempt(target, opener, receipt, streamed)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise Timeout("The deadline ran out", details={"attempts": receipt.attempts}) from None
            except AppError as error:
                wait = self._wait(error, receipt.attempts, candidates)
                if wait is None:
                    error.details.setdefault("attempts", receipt.attempts)
                    raise
                if deadline is not None and asyncio.get_running_loop().time() + wait >= deadline:
                    raise Timeout("The deadline leaves no time for another attempt", details=error.details) from error
            await asyncio.sleep(wait)

    async def _attempt(self, target: Target, opener: Opener[T], receipt: Receipt, streamed: bool) -> Opened[T]:
        if not target.breaker.acquire():
            raise ModelUnavailable(f"{target.name} has failed too often; it is left alone for a while", retry_after=10)
        held = AsyncExitStack()
        try:
            waiting_since = time.perf_counter()
            await held.enter_async_context(target.provider.admission.slot())
            started = time.perf_counter()
            receipt.queued += started - waiting_since
            target.busy += 1
            held.callback(_less_busy, target)
            value = await opener(target)
            receipt.first_token = time.perf_counter() - started if streamed else None
        except BaseException as error:
            _judge(target, error)
            await held.aclose()
            raise
        target.answered(receipt.first_token)
        receipt.provider, receipt.model = target.provider.name, target.config.model
        return Opened(value, target, held)

    def _wait(self, error: AppError, attempts: int, candidates: Sequence[Target]) -> float | None:
        """Seconds before the next attempt; None where there is none."""
        others_left = attempts < len(candidates)
        if others_left:
            again = error.retryable or _targets_own_fault(error)
        else:
            again = error.retryable and attempts < max(self._most, len(candidates))
        if not again or not self._budget.withdraw():
            return None
        if others_left:
            return 0.0
        if error.retry_after is not None:
            return min(error.retry_after, LONGEST_WAIT)
        round_number = attempts - len(candidates)
        wait: float = min(self._backoff * 2**round_number, LONGEST_WAIT)
        return wait * (1 + JITTER * random.random())  # noqa: S311 - spreads retries, guards nothing


def _targets_own_fault(error: AppError) -> bool:
    if isinstance(error, UpstreamError):
        status = error.details.get("upstream_status")
        return status is None or status in OWN_REASONS
    return isinstance(error, RateLimitExceeded | Overloaded | ModelUnavailable)


def _judge(target: Target, error: BaseException) -> None:
    """Tell the breaker; a refusal for the caller's own fault, a full queue or a caller that left is no failure."""
    if isinstance(error, AppError) and (
        error.retryable or (isinstance(error, UpstreamError) and "upstream_status" not in error.details)
    ):
        target.breaker.failed()
    else:
        target.breaker.abandoned()


def _less_busy(target: Target) -> None:
    target.busy -= 1
