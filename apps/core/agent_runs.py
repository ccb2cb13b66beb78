"""The record of an agent's run, the port of the store that keeps it, and two stores.

One is in this process' memory. The other stands in front of a store and writes the ends of runs again where it could
not take them, so that none stays `running` for ever.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from apps.core.errors import AppError

RunStatus = Literal["running", "paused", "done", "failed", "cancelled"]


@dataclass(slots=True)
class AgentRun:
    """One run, from its call to its end. Times in seconds since the epoch, money in US dollars.

    ``steps`` is what the agent did, in order, as JSON: a call of the model or of a tool each. ``pending`` are the tool
    calls that a paused run waits with, each with its ``decision`` once there is one, and ``state`` is what the loop
    needs to go on when all are decided: opaque text. ``outcome`` is
    ``ok`` or a code of the error tree. ``ends_by`` is when a run that is still ``running`` must be over: one that is
    not has lost its process.
    """

    tenant: str
    key_id: str | None
    agent: str
    ends_by: float
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    status: RunStatus = "running"
    begun_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)
    state: str = ""
    answer: str = ""
    model: str = ""
    outcome: str = "ok"
    error: dict[str, Any] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float | None = None


class RunStore(Protocol):
    """Keeps runs; every method may be called from several processes that share the store."""

    async def add(self, run: AgentRun) -> None:
        """Keep a new run."""

    async def get(self, tenant: str, run_id: str) -> AgentRun | None:
        """None where there is none, or it is another tenant's: the two look alike."""

    async def recent(self, tenant: str, limit: int, before: float | None = None) -> list[AgentRun]:
        """The tenant's runs that began before then, the newest first, at most ``limit``."""

    async def save(self, run: AgentRun) -> bool:
        """Write the run where it is ``running`` in the store.

        False where it was cancelled meanwhile: it stays ``cancelled`` then, and all the rest is written.
        """

    async def change(self, tenant: str, run_id: str, before: RunStatus, after: RunStatus, ends_by: float) -> bool:
        """Move a run from one status to another, in one step: of several who try at once, one gets True."""

    async def decide(
        self,
        tenant: str,
        run_id: str,
        before: list[dict[str, Any]],
        after: list[dict[str, Any]],
        ends_by: float | None = None,
    ) -> bool:
        """Replace the ``pending`` calls of a paused run where they still are ``before``; in one step.

        Of several who try at once, one gets True. With ``ends_by`` the run is ``running`` from then on.
        """

    async def is_running(self, run_id: str) -> bool:
        """Whether the store still has it as ``running``."""

    async def forget(self, begun_before: float) -> int:
        """Delete what began before then; the number of runs."""


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
