"""Budgets: a Bookkeeper that reserves what a call may cost before it is made. The ledger settles it afterwards.

A call is let in while anything is left, so a budget is overspent by the last call at most. What running calls have
reserved counts as spent until their rows are written. Without an answer from the database nothing is let in.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.core.accounting import CallRecord
from apps.core.callers import Budget
from apps.core.errors import AppError, Forbidden, RateLimitExceeded, StoreUnavailable
from apps.operations.database import Database
from apps.operations.ledger import Ledger
from apps.operations.ledger_rows import BILLION, Charge, billionths, budget_key
from apps.operations.periods import end_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

HELD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class BudgetState:
    """For whoever watches the service: calls refused for want of money, and for want of a database."""

    exhausted: int
    unavailable: int


class Budgets:
    """Calls of keys without a budget, and calls that cost nothing, pass without a look at the database."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._exhausted = 0
        self._unavailable = 0

    async def opening(self, call: CallRecord) -> None:
        budget = call.caller.budget
        if budget is None or call.estimated_cost == 0:
            return
        if call.estimated_cost is None:
            raise Forbidden("This key has a budget, and the price of that model is not known", field="model")
        if self._ledger.full:
            self._unavailable += 1
            raise StoreUnavailable
        charge = Charge(*budget_key(call), billionths(call.estimated_cost))
        try:
            over = await self._reserve(call.id, charge, billionths(budget.usd))
        except BaseException as error:
            self._ledger.release(call.id)
            self._unavailable += isinstance(error, StoreUnavailable)
            raise
        if over is not None:
            self._ledger.release(call.id)
            self._exhausted += 1
            raise _used_up(budget, call.begun_at, *over)

    def closing(self, call: CallRecord) -> None:
        """The ledger, which has the call's row written, settles in the same transaction."""

    def state(self) -> BudgetState:
        return BudgetState(self._exhausted, self._unavailable)

    async def _reserve(self, id: str, charge: Charge, limit: int) -> tuple[int, int] | None:
        expires_at = self._ledger.hold(id)

        async def work(connection: "AsyncConnection") -> tuple[int, int] | None:
            from apps.operations.ledger_store import reserve

            return await reserve(connection, id, charge, limit, expires_at)

        return await self._database.write(work)


def _used_up(budget: Budget, now: float, spent: int, reserved: int) -> AppError:
    """With the period's end to come back at, or soon where running calls may yet give something back."""
    gone = spent >= billionths(budget.usd)
    wait = max(1.0, end_of(budget.period, now) - time.time()) if gone else HELD_SECONDS
    details = {
        "source": "budget",
        "limit": budget.usd,
        "spent": spent / BILLION,
        "reserved": reserved / BILLION,
        "period": budget.period,
    }
    what = "is used up" if gone else "is reserved by calls under way"
    return RateLimitExceeded(f"The {budget.period}'s budget of this key {what}", details=details, retry_after=wait)
