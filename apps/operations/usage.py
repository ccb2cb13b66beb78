"""Sums of the ledger: what was used, in a span of days, by whatever it is asked to be told apart by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apps.operations.database import Database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

SECONDS = 5.0
GROUPS = ("day", "tenant", "key", "model", "route")
SUMS = (
    "calls",
    "failed",
    "cache_hits",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cost_usd",
    "saved_usd",
)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """Days as 2026-11-25, both included; ``only`` are values of groups that all calls must have."""

    first: str
    last: str
    group_by: Sequence[str]
    only: Mapping[str, str] = field(default_factory=dict)
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True)
class UsageReport:
    """A page of rows, in the order of their groups; the sums of all pages; and whether more follow."""

    rows: Sequence[Row]
    total: Row
    more: bool


async def usage(database: Database, asked: UsageQuestion) -> UsageReport:
    """Raises StoreUnavailable."""

    async def work(connection: "AsyncConnection") -> UsageReport:
        # needs SQLAlchemy, which is there once a database is open
        from apps.operations.usage_store import page, total

        rows = await page(connection, asked)
        return UsageReport(rows[: asked.limit], await total(connection, asked), len(rows) > asked.limit)

    return await database.read(work, SECONDS)
