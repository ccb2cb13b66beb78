"""Attempts: one call, tried on its candidates until one has begun to answer.

Nothing is tried again once a first delta is there. Another target is tried at once; the same one after a wait, and only
while the retry budget lasts. A target whose breaker is open is passed over, which costs nothing.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from apps.core.calls import CallRecord
from apps.core.errors import AppError, ModelUnavailable, Overloaded, RateLimitExceeded, Timeout, UpstreamError
from apps.gateway.routing.breaker import RetryBudget
from apps.gateway.routing.targets import Target

T = TypeVar("T")
Opener = Callable[[Target], Awaitable[T]]

LONGEST_WAIT = 8.0
JITTER = 0.1
# a target that refuses with one of these may do so for reasons of its own: its key, its models, its load
OWN_REASONS = frozenset({200, 401, 402, 403, 404, 408, 409})


class Opened(Generic[T]):
    """A call that has begun to answer; ``close`` gives its place back and must be awaited once."""

    __slots__ = ("_closers", "_ticket", "target", "value")

    def __init__(self, value: T, target: Target, ticket: int | None) -> None:
        self.value = value
        self.target = target
        self._ticket = ticket
        self._closers: list[Callable[[], Awaitable[None]]] = []

    def closes(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have ``close`` called before the place is given back."""
        self._closers.append(close)

    async def close(self) -> None:
        try:
            for close in self._closers:
                await close()
        finally:
            self.release()

    def release(self) -> None:
        """`close`, for an answer that is whole and holds nothing but its place."""
        _give_back(self.target, self._ticket)

    def broke_off(self, error: AppError) -> None:
        """The answer failed after it had begun."""
        if not _callers_own(error):
            self.target.breaker.broke_off()


class Attempts:
    """``most`` attempts on the same target; ``backoff`` seconds before the second, doubling, with jitter."""

    def __init__(self, *, most: int, backoff: float) -> None:
        self.most = most
        self._backoff = backoff

    async def open(
        self,
        candidates: Sequence[Target],
        opener: Opener[T],
        record: CallRecord,
        budget: RetryBudget,
        *,
        streamed: bool,
        deadline: float | None = None,
    ) -> Opened[T]:
        """The first candidate's answer that begins. ``deadline`` is a time of the loop's clock.

        Raises the last error, with ``details.attempts``; Timeout where the deadline ran out. All the attempts on one
        target together have its provider's ``total`` seconds.
        """
        budget.deposit()
        call = _Call(self, candidates, opener, record, budget, streamed, deadline)
        try:
            return await call.attempt()
        except AppError as error:
            failed = error
        return await self._again(call, failed)

    async def _again(self, call: "_Call[T]", failed: AppError) -> Opened[T]:
        """All attempts behind the first, which ``failed``: tenacity asks after each whether and when to go on."""
        # most calls need no second attempt; the import is a tenth of what the app adds to FastAPI's own
        from tenacity import AsyncRetrying, retry_if_exception

        first: AppError | None = failed

        async def attempt() -> Opened[T]:
            nonlocal first
            if first is not None:
                known, first = first, None
                raise known
            return await call.attempt()

        retrying = AsyncRetrying(
            retry=retry_if_exception(call.may_retry),
            wait=lambda state: call.wait(),
            stop=lambda state: call.is_over(state.upcoming_sleep),
            reraise=True,
        )
        return await retrying(attempt)

    def wait(self, error: AppError, failures: int) -> float:
        """Seconds before the next attempt on the same target."""
        if error.retry_after is not None:
            return min(error.retry_after, LONGEST_WAIT)
        wait: float = min(self._backoff * 2 ** (failures - 1), LONGEST_WAIT)
        return wait * (1 + JITTER * random.random())  # noqa: S311 - spreads retries, guards nothing


class _Call(Generic[T]):
    """One call on its way from attempt to attempt."""

    def __init__(
        self,
        policy: Attempts,
        candidates: Sequence[Target],
        opener: Opener[T],
        record: CallRecord,
        budget: RetryBudget,
        streamed: bool,
        deadline: float | None,
    ) -> None:
        self._policy = policy
        self._opener = opener
        self._record = record
        self._budget = budget
        self._streamed = streamed
        self._deadline = deadline
        self._turns = _Turns(candidates, policy.most)
        self._target = self._turns.first()
        self._error: AppError | None = None

    async def attempt(self) -> Opened[T]:
        """One attempt on the next target in order."""
        record, target, deadline = self._record, self._target, self._deadline
        record.attempt(target.name, target.provider.boundary)
        ends = self._turns.ends(target, deadline)
        try:
            async with asyncio.timeout_at(ends) as limit:
                return await self._attempt(target)
        except TimeoutError:
            if not limit.expired():
                raise
            error: AppError = Timeout("The time ran out", details={"cause": "timeout"})
            if ends != deadline:
                target.breaker.failed()
        except AppError as raised:
            error = raised
        if error.status == 429 or error.status >= 500:
            error.count_attempts(record.attempts)
        raise error

    def may_retry(self, error: BaseException) -> bool:
        """Whether a candidate is left for another attempt after this failure."""
        if not isinstance(error, AppError):
            return False
        following = self._turns.after(self._target, error)
        if following is None:
            return False
        self._error, self._target = error, following
        return True

    def wait(self) -> float:
        """Seconds before the next attempt: none before another target's first."""
        if self._error is None or self._turns.round == 1:
            return 0.0
        return self._policy.wait(self._error, self._turns.round - 1)

    def is_over(self, wait: float) -> bool:
        """Whether there is no budget for another attempt, or no time."""
        granted = self._budget.withdraw(granted=self._turns.round == 1)
        now = asyncio.get_running_loop().time()
        return not granted or now + wait >= self._turns.ends(self._target, self._deadline)

    async def _attempt(self, target: Target) -> Opened[T]:
        admission, busy, ticket = target.provider.admission, False, None
        if not target.breaker.acquire():
            raise _cooling_down([target])
        started, queued = time.perf_counter(), self._record.queued
        try:
            _refuse_what_cannot_make_it(target, self._deadline)
            if not target.provider.own_queue:
                ticket = await admission.enter()
                self._record.queued += time.perf_counter() - started
            target.busy += 1
            busy = True
            value = await self._opener(target)
        except BaseException as error:
            _judge(target, error)
            if busy:
                _give_back(target, ticket)
            raise
        took = time.perf_counter() - started - (self._record.queued - queued)
        if self._streamed:
            self._record.latency = took
        target.answered(took, streamed=self._streamed)
        self._record.provider = target.provider.name
        # a target that asks another model has noted which
        self._record.model = self._record.model or target.answers_as
        return Opened(value, target, ticket)


class _Turns:
    """The order of attempts: every candidate once, best first, then again where the fault may pass by itself."""

    def __init__(self, candidates: Sequence[Target], most: int) -> None:
        self._candidates = candidates
        self._left = max(most, len(candidates)) - 1
        self._at = 0
        self._gone: set[int] = set()
        self._ends: dict[int, float] = {}
        self.round = 1

    def first(self) -> Target:
        for index, target in enumerate(self._candidates):
            if target.breaker.allows():
                self._at = index
                return target
        raise _cooling_down(self._candidates)

    def ends(self, target: Target, deadline: float | None) -> float:
        """When this target's time is over: the caller's deadline, or its provider's total since its first attempt."""
        key = id(target)
        if key not in self._ends:
            self._ends[key] = asyncio.get_running_loop().time() + target.provider.config.timeouts.total
        return self._ends[key] if deadline is None else min(deadline, self._ends[key])

    def after(self, target: Target, error: AppError) -> Target | None:
        """The next candidate after this failure; None where there is none."""
        if not error.retryable:
            if not _targets_own_fault(error):
                return None
            self._gone.add(id(target))
        if self._left == 0:
            return None
        self._left -= 1
        for index in (*range(self._at + 1, len(self._candidates)), *range(self._at + 1)):
            following: Target = self._candidates[index]
            if id(following) not in self._gone and following.breaker.allows():
                self.round += index <= self._at
                self._at = index
                return following
        return None


def _targets_own_fault(error: AppError) -> bool:
    if isinstance(error, UpstreamError):
        return error.upstream_status is None or error.upstream_status in OWN_REASONS
    return not _callers_own(error) and isinstance(error, RateLimitExceeded | Overloaded | ModelUnavailable | Timeout)


def _cooling_down(targets: Sequence[Target]) -> ModelUnavailable:
    wait = max(1.0, min(target.breaker.reopens_in() for target in targets))
    return ModelUnavailable("The model has failed too often; it is left alone for a while", retry_after=wait)


def _refuse_what_cannot_make_it(target: Target, deadline: float | None) -> None:
    if deadline is None:
        return
    admission, left = target.provider.admission, deadline - asyncio.get_running_loop().time()
    # one that is over already is a Timeout, which the attempt's own bound raises
    if 0 < left < admission.predicted_wait():
        raise Overloaded(
            "The deadline cannot be met: the queue is longer than that",
            details={"waiting": admission.waiting},
            retry_after=admission.retry_after(),
        )


def _judge(target: Target, error: BaseException) -> None:
    """Tell the breaker; a refusal for the caller's own fault, a full queue or a caller that left is no failure."""
    nonsense = isinstance(error, UpstreamError) and error.upstream_status in (None, 200)
    if isinstance(error, AppError) and (error.retryable or nonsense or isinstance(error, Timeout)):
        target.breaker.failed()
    else:
        target.breaker.abandoned()
    if isinstance(error, AppError) and error.retry_after is not None and _is_throttled(error):
        target.rest(error.retry_after)


def _is_throttled(error: AppError) -> bool:
    return not _callers_own(error) and (isinstance(error, RateLimitExceeded) or error.upstream_status is not None)


def _callers_own(error: AppError) -> bool:
    """A budget that was spent in the middle says nothing of the target, and is as empty for the next one."""
    return error.source == "budget"


def _give_back(target: Target, ticket: int | None) -> None:
    """End a call on the target; without a ticket its model holds the slot."""
    target.busy -= 1
    if ticket is not None:
        target.provider.admission.leave(ticket)
