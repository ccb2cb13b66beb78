"""The job table in its one thread, for callers on the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from apps.core.storage import storing
from apps.rag.job_table import JobTable
from apps.rag.limits import Limits

T = TypeVar("T")


class JobThread:
    """Opens the table at the first call."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._pool = ThreadPoolExecutor(1, "rag-jobs")
        self._table: JobTable | None = None

    async def __call__(self, work: Callable[[JobTable], T]) -> T:
        """Raises NoStorage where the disk refuses it."""
        with storing("the table of jobs"):
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(self._opened()))

    async def aclose(self) -> None:
        if self._table is not None:
            await self(lambda table: table.close())
        await asyncio.to_thread(self._pool.shutdown)

    def _opened(self) -> JobTable:
        if self._table is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._table = JobTable(self._path, self._limits)
        return self._table
