"""Runs of agents in the database. Implements RunStore of apps.core.agent_runs; knows no loop and no HTTP."""

import asyncio
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from apps.core.agent_runs import AgentRun, RunStatus
from apps.operations.database import Database, Work

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")

# a run takes seconds to minutes: it can wait a little, and must not keep the pool from those who cannot
AT_ONCE = 3
SECONDS = 10.0
JSON_COLUMNS = ("steps", "pending", "error")
# neither database takes this character in a text
NUL, SHOWN_NUL = "\0", "\ufffd"


class AgentRuns:
    """Raises StoreUnavailable where the database cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def add(self, run: AgentRun) -> None:
        from apps.operations.tables import agent_runs

        values = _row(run)

        async def insert(connection: "AsyncConnection") -> None:
            await connection.execute(agent_runs.insert().values(**values))

        await self._write(insert)

    async def get(self, tenant: str, run_id: str) -> AgentRun | None:
        from sqlalchemy import select

        from apps.operations.tables import agent_runs

        async def find(connection: "AsyncConnection") -> AgentRun | None:
            asked = select(agent_runs).where(agent_runs.c.id == run_id, agent_runs.c.tenant == tenant)
            row = (await connection.execute(asked)).mappings().first()
            return None if row is None else _run(dict(row))

        return await self._read(find)

    async def recent(self, tenant: str, limit: int, before: float | None = None) -> list[AgentRun]:
        from sqlalchemy import select

        from apps.operations.tables import agent_runs

        async def find(connection: "AsyncConnection") -> list[AgentRun]:
            mine = select(agent_runs).where(agent_runs.c.tenant == tenant)
            if before is not None:
                mine = mine.where(agent_runs.c.begun_at < before)
            rows = await connection.execute(mine.order_by(agent_runs.c.begun_at.desc()).limit(limit))
            return [_run(dict(row)) for row in rows.mappings()]

        return await self._read(find)

    async def save(self, run: AgentRun) -> bool:
        from sqlalchemy import update

        from apps.operations.tables import agent_runs

        values = _row(run)
        mine = (agent_runs.c.id == run.id, agent_runs.c.tenant == run.tenant)

        async def write(connection: "AsyncConnection") -> bool:
            running = update(agent_runs).where(*mine, agent_runs.c.status == "running").values(**values)
            if (await connection.execute(running)).rowcount == 1:
                return True
            values["status"] = "cancelled"
            await connection.execute(
                update(agent_runs).where(*mine, agent_runs.c.status == "cancelled").values(**values)
            )
            return False

        return await self._write(write)

    async def change(self, tenant: str, run_id: str, before: RunStatus, after: RunStatus, ends_by: float) -> bool:
        from sqlalchemy import update

        from apps.operations.tables import agent_runs

        ended_at = time.time() if after == "cancelled" else None

        async def move(connection: "AsyncConnection") -> bool:
            moved = await connection.execute(
                update(agent_runs)
                .where(agent_runs.c.id == run_id, agent_runs.c.tenant == tenant, agent_runs.c.status == before)
                .values(status=after, ends_by=ends_by, ended_at=ended_at)
            )
            return moved.rowcount == 1

        return await self._write(move)

    async def decide(
        self,
        tenant: str,
        run_id: str,
        before: list[dict[str, Any]],
        after: list[dict[str, Any]],
        ends_by: float | None = None,
    ) -> bool:
        from sqlalchemy import update

        from apps.operations.tables import agent_runs

        table = agent_runs.c
        values: dict[str, Any] = {"pending": json.dumps(after)}
        if ends_by is not None:
            values |= {"status": "running", "ends_by": ends_by}
        # what was written as text and read from it is the same text again, so that texts can be compared
        same = (table.status == "paused", table.pending == json.dumps(before))

        async def replace(connection: "AsyncConnection") -> bool:
            replaced = await connection.execute(
                update(agent_runs).where(table.id == run_id, table.tenant == tenant, *same).values(**values)
            )
            return replaced.rowcount == 1

        return await self._write(replace)

    async def is_running(self, run_id: str) -> bool:
        from sqlalchemy import select

        from apps.operations.tables import agent_runs

        async def look(connection: "AsyncConnection") -> bool:
            asked = select(agent_runs.c.status).where(agent_runs.c.id == run_id)
            return (await connection.execute(asked)).scalar() == "running"

        return await self._read(look)

    async def forget(self, begun_before: float) -> int:
        from sqlalchemy import delete

        from apps.operations.tables import agent_runs

        async def remove(connection: "AsyncConnection") -> int:
            return (await connection.execute(delete(agent_runs).where(agent_runs.c.begun_at < begun_before))).rowcount

        return await self._write(remove)

    async def _read(self, work: Work[T]) -> T:
        async with self._turn:
            return await self._database.read(work, SECONDS)

    async def _write(self, work: Work[T]) -> T:
        async with self._turn:
            return await self._database.write(work, SECONDS)


def _row(run: AgentRun) -> dict[str, Any]:
    values = asdict(run)
    for column in JSON_COLUMNS:
        values[column] = None if values[column] is None else json.dumps(values[column])
    for column in ("answer", "model"):
        values[column] = _storable(values[column])
    values["model"] = values["model"][:200]
    return values


def _run(row: dict[str, Any]) -> AgentRun:
    for column in JSON_COLUMNS:
        row[column] = None if row[column] is None else json.loads(row[column])
    return AgentRun(**row)


def _storable(text: str) -> str:
    return text.replace(NUL, SHOWN_NUL).encode("utf-8", "replace").decode()
