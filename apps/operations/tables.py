"""The tables, as of the last migration, and the statements of keys and of agents' runs. Imported with SQLAlchemy.

A test holds the tables to what the migrations make. Times are seconds since 1970, so that both databases mean the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    delete,
    exists,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("tenant", String(100), nullable=False),
    # what is kept of the key itself: an HMAC, and a beginning that is too short to be of use
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    # patterns, as a JSON list
    Column("models", Text, nullable=False),
    Column("routes", Text, nullable=False),
    Column("networks", Text, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("budget_usd", Float),
    Column("budget_period", String(8)),
    Column("semantic_cache", Float),
    Column("created_at", Float, nullable=False),
    Column("rotated_at", Float),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

key_changes = Table(
    "key_changes",
    metadata,
    # one row; the number grows with every change of a key, and tells the other processes to forget what they know
    Column("id", Integer, primary_key=True),
    Column("number", Integer, nullable=False),
)

# The ledger: one row a call. Money is in billionths of a dollar, so that sums are exact.
calls = Table(
    "calls",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("begun_at", Float, nullable=False),
    # in UTC, as 2026-11-25
    Column("day", String(10), nullable=False),
    Column("tenant", String(100), nullable=False),
    Column("key_id", String(100)),
    Column("route", String(100), nullable=False),
    Column("asked", String(200), nullable=False),
    Column("model", String(200), nullable=False),
    Column("provider", String(100), nullable=False),
    Column("outcome", String(40), nullable=False),
    Column("cache", String(10), nullable=False),
    Column("streamed", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("queued", Float, nullable=False),
    Column("first_token", Float),
    Column("duration", Float, nullable=False),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("cached_tokens", BigInteger, nullable=False),
    # the tokens were not reported, but counted by their pieces
    Column("estimated", Boolean, nullable=False),
    Column("cost", BigInteger),
    Column("saved", BigInteger, nullable=False),
    Index("ix_calls_day", "day"),
    Index("ix_calls_tenant", "tenant", "day"),
    Index("ix_calls_key_id", "key_id", "day"),
)

# What rows of ``calls`` were deleted for their age came to, by day and what else usage is grouped by. The rows' sums
# and these are the whole: no row is in both.
daily_usage = Table(
    "daily_usage",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("tenant", String(100), primary_key=True),
    # empty where the caller had no key
    Column("key_id", String(100), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("route", String(100), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("cache_hits", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("saved", BigInteger, nullable=False),
    Index("ix_daily_usage_tenant", "tenant", "day"),
    Index("ix_daily_usage_key_id", "key_id", "day"),
)

# What a key has spent in a calendar day (2026-11-25) or month (2026-11), and what its running calls may yet spend.
budgets = Table(
    "budgets",
    metadata,
    Column("key_id", String(100), primary_key=True),
    Column("period", String(10), primary_key=True),
    Column("spent", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
)

# One row a running call of a key with a budget. One that is not renewed any more belongs to a dead process.
reservations = Table(
    "reservations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("key_id", String(100), nullable=False),
    Column("period", String(10), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)

agent_runs = Table(
    "agent_runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(100), nullable=False),
    Column("key_id", String(32)),
    Column("agent", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("begun_at", Float, nullable=False, index=True),
    Column("ended_at", Float),
    Column("ends_by", Float, nullable=False),
    # JSON; ``state`` is the loop's own
    Column("steps", Text, nullable=False),
    Column("pending", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("model", String(200), nullable=False),
    Column("outcome", String(64), nullable=False),
    Column("error", Text),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("cost", Float),
)


# documents that wait to be ingested; a queue is a folder or a store of objects (see document_jobs.py)
rag_jobs = Table(
    "rag_jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("queue", String(32), nullable=False),
    Column("tenant", Text, nullable=False),
    Column("collection", String(63), nullable=False),
    Column("created", Float, nullable=False),
)
rag_files = Table(
    "rag_files",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("job", String(32), ForeignKey("rag_jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("queue", String(32), nullable=False),
    Column("tenant", Text, nullable=False),
    Column("collection", String(63), nullable=False),
    Column("name", Text, nullable=False),
    Column("document", String(64), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("spooled", String(32), nullable=False),
    Column("status", String(8), nullable=False),
    Column("pages", Integer, nullable=False),
    Column("passages", Integer, nullable=False),
    Column("embedded", Integer, nullable=False),
    Column("percent", Float, nullable=False),
    Column("error", Text),
    Column("warnings", Text),
    Column("worker", String(32)),
    Column("attempts", Integer, nullable=False),
    Column("due", Float, nullable=False),
    Column("started", Float),
    Column("finished", Float),
)
Index("ix_rag_files_queue", rag_files.c.queue, rag_files.c.status, rag_files.c.due)
rag_turns = Table(
    "rag_turns",
    metadata,
    Column("queue", String(32), primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("taken", Float, nullable=False),
)
rag_uploads = Table(
    "rag_uploads",
    metadata,
    Column("spooled", String(32), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("queue", String(32), nullable=False),
    Column("created", Float, nullable=False),
    Column("content", LargeBinary, nullable=False),
)


Row = Mapping[str, Any]


class RunStatements:
    """Rows in, rows out; each method is the work of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, values: Mapping[str, Any]) -> None:
        await self._connection.execute(agent_runs.insert().values(**values))

    async def find(self, tenant: str, run_id: str) -> dict[str, Any] | None:
        statement = select(agent_runs).where(agent_runs.c.id == run_id, agent_runs.c.tenant == tenant)
        row = (await self._connection.execute(statement)).mappings().first()
        return None if row is None else dict(row)

    async def recent(self, tenant: str, limit: int, before: float | None) -> list[dict[str, Any]]:
        """The latest first; only those that began ``before`` then, where it is given."""
        mine = select(agent_runs).where(agent_runs.c.tenant == tenant)
        if before is not None:
            mine = mine.where(agent_runs.c.begun_at < before)
        rows = await self._connection.execute(mine.order_by(agent_runs.c.begun_at.desc()).limit(limit))
        return [dict(row) for row in rows.mappings()]

    async def save(self, tenant: str, run_id: str, values: Mapping[str, Any]) -> bool:
        """Write a run that is running. One that was cancelled stays so and gets all the rest: False."""
        if await self.change(tenant, run_id, {"status": "running"}, values):
            return True
        await self.change(tenant, run_id, {"status": "cancelled"}, {**values, "status": "cancelled"})
        return False

    async def change(self, tenant: str, run_id: str, before: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        """Set ``values`` where the run still has those of ``before``; whether it did."""
        same = [agent_runs.c[name] == value for name, value in before.items()]
        changed = await self._connection.execute(
            update(agent_runs).where(agent_runs.c.id == run_id, agent_runs.c.tenant == tenant, *same).values(**values)
        )
        return changed.rowcount == 1

    async def status(self, run_id: str) -> str | None:
        """The status in the store, of any tenant's run."""
        found = await self._connection.execute(select(agent_runs.c.status).where(agent_runs.c.id == run_id))
        return found.scalar()

    async def forget(self, begun_before: float) -> int:
        return (await self._connection.execute(delete(agent_runs).where(agent_runs.c.begun_at < begun_before))).rowcount


class KeyStatements:
    """Rows in, rows out; each method is the work of one transaction. What changes a key counts the change."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, values: Row) -> tuple[Row, int]:
        """The new row, and the number of the change."""
        rows = await self._connection.execute(api_keys.insert().values(dict(values)).returning(*api_keys.c))
        return _row(rows.mappings().one()), await self._count_change()

    async def update(self, id: str, values: Row) -> tuple[Row | None, int]:
        """The row of a live key with these values, and the number of the change; None where no live key has the id."""
        live = (api_keys.c.id == id) & api_keys.c.revoked_at.is_(None)
        rows = await self._connection.execute(api_keys.update().where(live).values(dict(values)).returning(*api_keys.c))
        row = rows.mappings().one_or_none()
        return (None, 0) if row is None else (_row(row), await self._count_change())

    async def all(self) -> Sequence[Row]:
        """The oldest first."""
        rows = await self._connection.execute(api_keys.select().order_by(api_keys.c.created_at, api_keys.c.id))
        return [_row(row) for row in rows.mappings()]

    async def find(self, digest: bytes, now: float) -> tuple[Row | None, tuple[int, bool]]:
        """The live key with this digest, and `state`."""
        # revoked and expired ones are left out here, so that they cost what an unknown one does
        expires, revoked = api_keys.c.expires_at, api_keys.c.revoked_at
        live = revoked.is_(None) & (expires.is_(None) | (expires > now))
        rows = await self._connection.execute(api_keys.select().where(api_keys.c.digest == digest, live))
        row = rows.mappings().one_or_none()
        return None if row is None else _row(row), await self.state()

    async def is_void(self, id: str, now: float) -> bool:
        """Whether there is a key of this id that is revoked or has expired."""
        void = api_keys.c.revoked_at.is_not(None) | (api_keys.c.expires_at <= now)
        rows = await self._connection.execute(select(exists().where(api_keys.c.id == id, void)))
        return bool(rows.scalar_one())

    async def state(self) -> tuple[int, bool]:
        """The number of the last change, and whether any key was ever made."""
        statement = select(key_changes.c.number, exists(select(api_keys.c.id)))
        number, exist = (await self._connection.execute(statement)).one()
        return number, bool(exist)

    async def _count_change(self) -> int:
        raised = key_changes.update().values(number=key_changes.c.number + 1).returning(key_changes.c.number)
        return int((await self._connection.execute(raised)).scalar_one())


def _row(row: RowMapping) -> Row:
    return {str(name): value for name, value in row.items()}
