"""The statements of our tables on one connection. Imported once a database is open, since SQLAlchemy is heavy."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.operations.ledger_store import LedgerStatements
from apps.operations.tables import agent_runs, api_keys, key_changes

Row = Mapping[str, Any]


class Statements:
    """All of them, in one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.ledger = LedgerStatements(connection)
        self.keys = KeyStatements(connection)
        self.runs = RunStatements(connection)


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
