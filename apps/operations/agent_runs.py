"""Runs of agents in the database. Implements RunStore of apps.core.agent_runs; knows no loop and no HTTP."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from apps.core.agent_runs import AgentRun, RunStatus
from apps.operations.database import Database, with_statements
from apps.operations.group_commit import Work

if TYPE_CHECKING:
    from apps.operations.tables import RunStatements

T = TypeVar("T")
RunWork = Callable[["RunStatements"], Awaitable[T]]

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
        values = _row(run)
        await self._write(lambda runs: runs.insert(values))

    async def get(self, tenant: str, run_id: str) -> AgentRun | None:
        row = await self._read(lambda runs: runs.find(tenant, run_id))
        return None if row is None else _run(row)

    async def recent(self, tenant: str, limit: int, before: float | None = None) -> list[AgentRun]:
        rows = await self._read(lambda runs: runs.recent(tenant, limit, before))
        return [_run(row) for row in rows]

    async def save(self, run: AgentRun) -> bool:
        values = _row(run)
        return await self._write(lambda runs: runs.save(run.tenant, run.id, values))

    async def change(self, tenant: str, run_id: str, before: RunStatus, after: RunStatus, ends_by: float) -> bool:
        values = {"status": after, "ends_by": ends_by, "ended_at": time.time() if after == "cancelled" else None}
        return await self._write(lambda runs: runs.change(tenant, run_id, {"status": before}, values))

    async def decide(
        self,
        tenant: str,
        run_id: str,
        before: list[dict[str, Any]],
        after: list[dict[str, Any]],
        ends_by: float | None = None,
    ) -> bool:
        values: dict[str, Any] = {"pending": json.dumps(after)}
        if ends_by is not None:
            values |= {"status": "running", "ends_by": ends_by}
        # what was written as text and read from it is the same text again, so that texts can be compared
        same = {"status": "paused", "pending": json.dumps(before)}
        return await self._write(lambda runs: runs.change(tenant, run_id, same, values))

    async def is_running(self, run_id: str) -> bool:
        return await self._read(lambda runs: runs.status(run_id)) == "running"

    async def forget(self, begun_before: float) -> int:
        return await self._write(lambda runs: runs.forget(begun_before))

    async def _read(self, work: RunWork[T]) -> T:
        async with self._turn:
            return await self._database.read(_on_runs(work), SECONDS)

    async def _write(self, work: RunWork[T]) -> T:
        async with self._turn:
            return await self._database.write(_on_runs(work), SECONDS)


def _on_runs(work: RunWork[T]) -> Work[T]:
    return with_statements(lambda on: work(on.runs))


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
