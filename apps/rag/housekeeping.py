"""Old jobs are forgotten, and what crashes left of uploads is dropped, beside the workers and again every hour."""

import asyncio
import logging

from apps.core.errors import NoStorage, StoreUnavailable
from apps.rag.job_queue import JobQueue
from apps.rag.uploads import Uploads

log = logging.getLogger(__name__)

TIDY_SECONDS = 3600.0


class Housekeeping:
    """Started and closed once. Nothing waits for it, and what fails is tried again after ``seconds``."""

    def __init__(self, jobs: JobQueue, uploads: Uploads, seconds: float = TIDY_SECONDS) -> None:
        self._jobs = jobs
        self._uploads = uploads
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_tidy())

    async def aclose(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _keep_tidy(self) -> None:
        while True:
            try:
                await self._uploads.sweep(await self._jobs.forget())
            except (NoStorage, StoreUnavailable) as error:
                log.info("Old jobs of documents are there a while longer: %s", error.message)
            except Exception:
                log.exception("Old jobs of documents cannot be tidied away")
            await asyncio.sleep(self._seconds)
