"""Budgets: a Bookkeeper that reserves what a call may cost before it is made. The ledger settles it afterwards.

A call is let in while anything is left, so a budget is overspent by the last call at most. What running calls have
reserved counts as spent until their rows are written; the rows of calls that have ended are waited for before a call is
refused. Without an answer from the database nothing is let in.

What spends bit by bit (an agent's run) looks at its budget between: what was reserved for it is its own, and what it
spends beyond that is reserved as it goes, so that others see it.
"""

import asyncio
import time
from dataclasses import dataclass

from apps.core.callers import Budget, Caller
from apps.core.calls import ACCOUNT, CUT_OFF, CallRecord
from apps.core.errors import AppError, Forbidden, RateLimitExceeded, StoreUnavailable
from apps.operations.database import Database, with_statements
from apps.operations.ledger import Ledger
from apps.operations.ledger_rows import BILLION, Charge, billionths, budget_key, end_of, period_of

HELD_SECONDS = 5.0
# how long a refusal waits at most for the rows of calls that have ended: here in steps, and in other processes
SETTLE_STEPS = 150
ELSEWHERE_SECONDS = 0.3
SETTLE_STEP = 0.02


@dataclass(frozen=True, slots=True)
class BudgetState:
    """For metrics: calls refused for want of money, and for want of a database."""

    exhausted: int
    unavailable: int


class Budgets:
    """Calls of keys without a budget, and calls that cost nothing, pass without a look at the database."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._exhausted = 0
        self._unavailable = 0
        self._accounts: dict[str, CallAccount] = {}

    async def opening(self, call: CallRecord) -> None:
        budget = call.caller.budget
        if budget is None:
            return
        await self._admit(call, budget)
        account = self._accounts[call.id] = CallAccount(self, call)
        ACCOUNT.set(account)

    async def standing(self, caller: Caller) -> tuple[float, float]:
        """US dollars spent and reserved by a key in its budget's current period. Raises StoreUnavailable."""
        if caller.budget is None or caller.key_id is None:
            return 0.0, 0.0
        charge = Charge(caller.key_id, period_of(caller.budget.period, time.time()), 0)
        spent, reserved = await self._database.read(with_statements(lambda on: on.ledger.standing(charge)))
        return spent / BILLION, reserved / BILLION

    async def _admit(self, call: CallRecord, budget: Budget) -> None:
        if call.estimated_cost == 0:
            return
        if call.estimated_cost is None:
            raise Forbidden(
                "This key has a budget, and the price of that model is not known: an operator has to set it",
                field="model",
                details={"model": call.requested_model},
            )
        if self._ledger.full:
            self._unavailable += 1
            raise StoreUnavailable
        try:
            over = await self._reserve_once_settled(call, billionths(call.estimated_cost), billionths(budget.usd))
        except BaseException as error:
            self._ledger.release(call.id)
            self._unavailable += isinstance(error, StoreUnavailable)
            raise
        if over is not None:
            self._ledger.release(call.id)
            self._exhausted += 1
            raise _used_up(budget, call.begun_at, *over)

    def closing(self, call: CallRecord) -> None:
        """The ledger, which has the call's row written and hears of it after this, settles in the same transaction."""
        account = self._accounts.pop(call.id, None)
        if account is not None and account.cost and _is_guess(call, account.cost):
            call.spent = account.cost

    async def go_on(self, call: CallRecord, cost: float) -> None:
        """Let a call that has cost so much spend more, or raise the error of a spent budget."""
        budget = call.caller.budget
        if budget is None or (not cost and call.estimated_cost == 0):
            return
        charge, limit = _charge(call, billionths(cost)), billionths(budget.usd)
        expires_at = self._ledger.hold(call.id)
        work = with_statements(lambda on: on.ledger.go_on(call.id, charge, limit, expires_at))
        try:
            over = await self._database.write_together(work)
        except StoreUnavailable:
            self._unavailable += 1
            raise
        if over is not None:
            self._exhausted += 1
            raise _used_up(budget, call.begun_at, *over)

    def state(self) -> BudgetState:
        return BudgetState(self._exhausted, self._unavailable)

    async def _reserve_once_settled(self, call: CallRecord, amount: int, limit: int) -> tuple[int, int] | None:
        """Reserve, once what calls that have ended had reserved is given back: that takes their rows a moment.

        The rows of other processes, of which nothing is known here, are given the time that they mostly take.
        """
        over = await self._reserve(call, amount, limit)
        if over is None or over[0] >= limit:
            return over
        wait = ELSEWHERE_SECONDS
        for _ in range(SETTLE_STEPS):
            if not self._ledger.settles(call.caller.key_id):
                break
            wait = 0.0
            await asyncio.sleep(SETTLE_STEP)
        await asyncio.sleep(wait)
        return await self._reserve(call, amount, limit)

    async def _reserve(self, call: CallRecord, amount: int, limit: int) -> tuple[int, int] | None:
        charge, expires_at = _charge(call, amount), self._ledger.hold(call.id)
        work = with_statements(lambda on: on.ledger.reserve(call.id, charge, limit, expires_at))
        return await self._database.write_together(work)


class CallAccount:
    """Implements Account: what one call has cost in all its parts, some of which may run at the same time."""

    def __init__(self, budgets: Budgets, call: CallRecord) -> None:
        self._budgets = budgets
        self._call = call
        self.cost = 0.0

    def spent(self, cost: float) -> None:
        self.cost += cost

    async def check(self) -> None:
        await self._budgets.go_on(self._call, self.cost)


def _charge(call: CallRecord, amount: int) -> Charge:
    return Charge(*budget_key(call), amount)


def _is_guess(call: CallRecord, known: float) -> bool:
    """Whether the record has less of the cost than its parts reported: they ended before they could be summed up."""
    if call.outcome in CUT_OFF and call.cost is None:
        return known > (call.estimated_cost or 0.0)
    return call.cost is None or call.estimated


def _used_up(budget: Budget, now: float, spent: int, reserved: int) -> AppError:
    """With the period's end to come back at, or soon where running calls may yet give something back."""
    gone = spent >= billionths(budget.usd)
    wait = max(1.0, end_of(budget.period, now) - time.time()) if gone else HELD_SECONDS
    details = {
        "limit": budget.usd,
        "spent": spent / BILLION,
        "reserved": reserved / BILLION,
        "period": budget.period,
    }
    what = "is used up" if gone else "is reserved by calls under way"
    message = f"The {budget.period}'s budget of this key {what}"
    return RateLimitExceeded(message, details=details, retry_after=wait, source="budget")
