"""The statements of agents' runs, on one connection. Imported when a database is open, since it needs SQLAlchemy."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.operations.tables import agent_runs


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
