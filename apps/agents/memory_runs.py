"""Runs kept in this process: for where there is no store, and for tests. A restart forgets them."""

import time
from copy import deepcopy
from typing import Any

from apps.core.agent_runs import AgentRun, RunStatus

MOST_RUNS = 1000


class MemoryRuns:
    """Implements RunStore; beyond ``most`` the oldest that have ended are forgotten."""

    def __init__(self, most: int = MOST_RUNS) -> None:
        self._most = most
        self._runs: dict[str, AgentRun] = {}

    async def add(self, run: AgentRun) -> None:
        self._runs[run.id] = deepcopy(run)
        if len(self._runs) > self._most:
            ended = next((kept.id for kept in self._runs.values() if kept.status not in ("running", "paused")), None)
            if ended is not None:
                del self._runs[ended]

    async def get(self, tenant: str, run_id: str) -> AgentRun | None:
        run = self._runs.get(run_id)
        return deepcopy(run) if run is not None and run.tenant == tenant else None

    async def recent(self, tenant: str, limit: int, before: float | None = None) -> list[AgentRun]:
        found = [run for run in self._runs.values() if run.tenant == tenant]
        found.sort(key=lambda run: run.begun_at, reverse=True)
        return deepcopy([run for run in found if before is None or run.begun_at < before][:limit])

    async def save(self, run: AgentRun) -> bool:
        kept = self._runs.get(run.id)
        if kept is None or kept.status not in ("running", "cancelled"):
            return False
        cancelled = kept.status == "cancelled"
        self._runs[run.id] = deepcopy(run)
        if cancelled:
            self._runs[run.id].status = "cancelled"
        return not cancelled

    async def change(self, tenant: str, run_id: str, before: RunStatus, after: RunStatus, ends_by: float) -> bool:
        run = self._runs.get(run_id)
        if run is None or run.tenant != tenant or run.status != before:
            return False
        run.status, run.ends_by = after, ends_by
        run.ended_at = time.time() if after == "cancelled" else None
        return True

    async def decide(
        self,
        tenant: str,
        run_id: str,
        before: list[dict[str, Any]],
        after: list[dict[str, Any]],
        ends_by: float | None = None,
    ) -> bool:
        run = self._runs.get(run_id)
        if run is None or run.tenant != tenant or run.status != "paused" or run.pending != before:
            return False
        run.pending = deepcopy(after)
        if ends_by is not None:
            run.status, run.ends_by = "running", ends_by
        return True

    async def is_running(self, run_id: str) -> bool:
        run = self._runs.get(run_id)
        return run is not None and run.status == "running"

    async def forget(self, begun_before: float) -> int:
        old = [run.id for run in self._runs.values() if run.begun_at < begun_before]
        for run_id in old:
            del self._runs[run_id]
        return len(old)
