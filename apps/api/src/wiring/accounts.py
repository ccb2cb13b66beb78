"""What is counted, written down and charged for, put together: limits, the ledger and budgets; and their numbers."""

from collections.abc import Iterator
from dataclasses import dataclass

from apps.api.src.limits.limiter import RateLimits, TokenLimits
from apps.core.calls import Bookkeeper
from apps.core.ports import Observation
from apps.core.settings import Settings
from apps.operations.budgets import Budgets
from apps.operations.database import Database
from apps.operations.journal import Journal
from apps.operations.ledger import Ledger
from apps.operations.retention import Retention


@dataclass(frozen=True, slots=True)
class Accounts:
    """An Observed. Without a database there are limits, and neither ledger nor budgets."""

    limits: RateLimits
    ledger: Ledger | None = None
    budgets: Budgets | None = None
    retention: Retention | None = None

    def books(self) -> list[Bookkeeper]:
        """The ledger first, so that it has what the others refuse; budgets last, so that those reserve nothing."""
        books: list[Bookkeeper | None] = [self.ledger, TokenLimits(self.limits.counts), self.budgets]
        return [book for book in books if book is not None]

    async def start(self) -> None:
        await self.limits.counts.start()
        if self.ledger is not None:
            await self.ledger.start()
        if self.retention is not None:
            await self.retention.start()

    async def aclose(self) -> None:
        if self.retention is not None:
            await self.retention.aclose()
        if self.ledger is not None:
            await self.ledger.aclose()
        await self.limits.counts.aclose()

    def observations(self) -> Iterator[Observation]:
        counts = self.limits.counts.state()
        if counts.shared:
            yield _gauge("genai_rate_limit_degraded", "1 while Redis does not count", counts.degraded)
            yield _gauge("genai_rate_limit_processes", "Processes that share the limits", counts.processes)
            yield _counter("genai_rate_limit_outages_total", "Times that Redis stopped to count", counts.outages)
            yield _counter(
                "genai_rate_limit_local_hits_total", "Requests counted by a local share of a limit", counts.local_hits
            )
        if self.ledger is not None:
            rows = self.ledger.state()
            yield _gauge("genai_ledger_waiting", "Calls that are not in the ledger yet", rows.waiting)
            yield _gauge("genai_budget_reservations", "Calls under way that hold a part of a budget", rows.reservations)
            yield _counter("genai_ledger_written_total", "Calls written to the ledger", rows.written)
            yield _counter("genai_ledger_lost_total", "Calls that the ledger could not take", rows.lost)
            yield _counter("genai_ledger_replayed_total", "Calls of dead processes that the journal had", rows.replayed)
            text = "Times that the ledger's journal could not be written"
            yield _counter("genai_ledger_journal_failures_total", text, rows.journal_failures)
            folded = self.retention.folded if self.retention is not None else 0
            yield _counter("genai_ledger_folded_total", "Old rows that were replaced by sums of their day", folded)
        if self.budgets is not None:
            refused, text = self.budgets.state(), "Calls refused before they were made, by the reason"
            name = "genai_budget_refused_total"
            yield _counter(name, text, refused.exhausted, reason="exhausted")
            yield _counter(name, text, refused.unavailable, reason="unavailable")


def build_accounts(settings: Settings, database: Database | None) -> Accounts:
    limits = RateLimits(settings)
    if database is None:
        return Accounts(limits)
    ledger = Ledger(
        database,
        journal=None if settings.ledger_journal == "off" else Journal(settings.data_dir / "journal"),
        journal_required=settings.ledger_journal == "required",
    )
    days = settings.ledger_retention_days
    return Accounts(limits, ledger, Budgets(database, ledger), Retention(database, days) if days else None)


def _gauge(name: str, text: str, value: float) -> Observation:
    return Observation(name, text, float(value))


def _counter(name: str, text: str, value: float, **labels: str) -> Observation:
    return Observation(name, text, float(value), "counter", labels)
