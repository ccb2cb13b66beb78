"""A store of runs that writes their ends again where it could not take them, so that none stays `running` for ever."""

import asyncio
import logging
import time
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from apps.core.agent_runs import AgentRun, RunStatus, RunStore
from apps.core.errors import AppError

MOST_UNSAVED = 1000
RETRY_SECONDS = 5.0
LAST_SECONDS = 2.0

log = logging.getLogger(__name__)


class RetriedRuns:
    """Implements RunStore over another one; what it cannot take is raised, and the end of a run is kept and retried.

    Until then reads answer with what is kept. ``seconds`` lie between two tries; beyond ``most`` the oldest is lost.
    """

    def __init__(self, store: RunStore, most: int = MOST_UNSAVED, seconds: float = RETRY_SECONDS) -> None:
        self._store = store
        self._most = most
        self._seconds = seconds
        self._unsaved: dict[str, AgentRun] = {}
        self._retrying: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many runs have ended and are not written down yet."""
        return len(self._unsaved)

    async def add(self, run: AgentRun) -> None:
        await self._store.add(run)

    async def get(self, tenant: str, run_id: str) -> AgentRun | None:
        unsaved = self._unsaved.get(run_id)
        if unsaved is not None:
            return deepcopy(unsaved) if unsaved.tenant == tenant else None
        return await self._store.get(tenant, run_id)

    async def recent(self, tenant: str, limit: int, before: float | None = None) -> list[AgentRun]:
        return [deepcopy(self._unsaved.get(run.id, run)) for run in await self._store.recent(tenant, limit, before)]

    async def save(self, run: AgentRun) -> bool:
        try:
            return await self._store.save(run)
        except AppError:
            if run.ended_at is not None:
                self._keep(run)
            raise

    async def change(self, tenant: str, run_id: str, before: RunStatus, after: RunStatus, ends_by: float) -> bool:
        if run_id in self._unsaved:
            return False
        return await self._store.change(tenant, run_id, before, after, ends_by)

    async def decide(
        self,
        tenant: str,
        run_id: str,
        before: list[dict[str, Any]],
        after: list[dict[str, Any]],
        ends_by: float | None = None,
    ) -> bool:
        return await self._store.decide(tenant, run_id, before, after, ends_by)

    async def is_running(self, run_id: str) -> bool:
        return run_id not in self._unsaved and await self._store.is_running(run_id)

    async def forget(self, begun_before: float) -> int:
        return await self._store.forget(begun_before)

    async def aclose(self) -> None:
        """Try a last time; what the store does not take is lost, and the log says how many."""
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.wait([self._retrying])
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self._write(tuple(self._unsaved.values()))
        except (AppError, TimeoutError):
            log.error("The ends of %d runs of agents are lost: the store did not take them", len(self._unsaved))

    def _keep(self, run: AgentRun) -> None:
        self._unsaved[run.id] = deepcopy(run)
        if len(self._unsaved) > self._most:
            oldest = next(iter(self._unsaved))
            del self._unsaved[oldest]
            log.error("The end of the run %s is lost: the store has not taken %d others either", oldest, self._most)
        if self._retrying is None or self._retrying.done():
            self._retrying = asyncio.create_task(self._retry())

    async def _retry(self) -> None:
        began, most = time.monotonic(), 0
        while self._unsaved:
            most = max(most, len(self._unsaved))
            await asyncio.sleep(self._seconds)
            try:
                await self._write(tuple(self._unsaved.values()))
            except AppError:
                continue
        log.info("The ends of %d runs of agents are written down after %.0f s", most, time.monotonic() - began)

    async def _write(self, runs: Iterable[AgentRun]) -> None:
        """Raises what the store raises for the first that it does not take; those behind it wait."""
        for run in runs:
            await self._store.save(run)
            self._unsaved.pop(run.id, None)
