"""Workers that take files from the job table and put them into the index, one commit a file."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from apps.core.errors import (
    AppError,
    InternalError,
    ModelUnavailable,
    NoStorage,
    NotFound,
    Overloaded,
    RateLimitExceeded,
    StoreUnavailable,
    Timeout,
)
from apps.core.process import import_aside
from apps.core.storage import storing
from apps.rag.job_queue import LONGEST_WAIT, Claim, LeaseLost
from apps.rag.parsing.sandbox import Sandbox
from apps.rag.storage import Parts

if TYPE_CHECKING:
    from apps.rag.file_ingestion import FileIngestion

log = logging.getLogger(__name__)

# what another process submitted is seen after that
POLL_SECONDS = 0.5
# and where there has been nothing to do for a while, after that: who takes a file in has workers of its own
IDLE_POLL_SECONDS = 2.0
BUSY_SECONDS = 30.0
TRANSIENT = (InternalError, ModelUnavailable, Overloaded, RateLimitExceeded, Timeout)
MOST_ATTEMPTS = 5
NO_STORAGE_SECONDS = 2.0
# what is new in a collection before its indices are brought up to date, if there is no quiet moment before
ROWS_BEFORE_UPKEEP = 2000
COMMITS_BEFORE_UPKEEP = 32
CLOSING_SECONDS = 10


class Ingestion:
    """Started and closed once. What is interrupted is given back, and begins again wherever it is taken next."""

    def __init__(
        self, parts: Parts, clock: Callable[[], float] = time.monotonic, idle_poll: float = IDLE_POLL_SECONDS
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._idle_poll = idle_poll
        self._worker = uuid.uuid4().hex
        self._tasks: list[asyncio.Task[None]] = []
        # ids of the files that this process is at: the leases of others, which it does not know of, run out
        self._in_hand: list[int] = []
        self._news = asyncio.Event()
        self._busy_at = self._clock()
        self._new_rows: dict[tuple[str, str], tuple[int, int]] = {}
        self._in_need_of_upkeep: set[tuple[str, str]] = set()
        self._tending = asyncio.Lock()

    def start(self) -> None:
        workers = [asyncio.create_task(self._work(polls=not n)) for n in range(self._parts.limits.workers)]
        self._tasks = [*workers, asyncio.create_task(self._renew())]

    def wake(self) -> None:
        """There may be something to do."""
        self._busy_at = self._clock()
        self._news.set()

    @property
    def at_work(self) -> bool:
        """Whether this process takes files in or brings an index up to date now."""
        return bool(self._in_hand) or self._tending.locked()

    @property
    def _idle(self) -> bool:
        return not self._in_hand and self._clock() - self._busy_at > BUSY_SECONDS

    def ask_upkeep(self, tenant: str, collection: str) -> None:
        """In the next quiet moment; once, and only where documents are ingested: a search alone writes nothing."""
        key = (tenant, collection)
        if self._tasks and key not in self._in_need_of_upkeep:
            self._in_need_of_upkeep.add(key)
            self._new_rows.setdefault(key, (0, 0))

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            try:
                await self._parts.jobs.release(self._worker)
            except StoreUnavailable:
                log.info("leases of this worker run out by themselves")
        self._tasks = []
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._tend_all()
        except TimeoutError:
            log.info("the indices are brought up to date with the next documents")

    async def _work(self, *, polls: bool) -> None:
        """Take file after file. Of the workers that are all idle, one ``polls``, and wakes the others."""
        sandbox = Sandbox(self._parts.limits, self._parts.tokenizer)
        try:
            while True:
                self._news.clear()
                try:
                    if self._waits_for_embedder() or (self._idle and not polls):
                        await self._quiet(sandbox)
                        continue
                    claim = await self._parts.jobs.claim(self._worker)
                    if claim is not None:
                        self.wake()
                        await self._take(claim, sandbox)
                        continue
                except (NoStorage, StoreUnavailable):
                    # said in the log where it was raised; the lease of what was in hand, or claimed without an answer,
                    # is not renewed any more: it runs out, and the file is tried again
                    await asyncio.sleep(NO_STORAGE_SECONDS)
                except Exception:
                    # a table that is locked for long
                    log.exception("the job table cannot be used")
                await self._quiet(sandbox)
        finally:
            await sandbox.aclose()

    def _waits_for_embedder(self) -> bool:
        """Whether it cannot answer now and will: a try of a file would be spent on nothing."""
        readiness = self._parts.embedder.readiness()
        return readiness.state != "ready" and readiness.retry_after is not None

    async def _quiet(self, sandbox: Sandbox) -> None:
        await self._tend_all()
        try:
            async with asyncio.timeout(self._idle_poll if self._idle else POLL_SECONDS):
                await self._news.wait()
        except TimeoutError:
            await sandbox.retire_idle()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._parts.limits.lease_seconds / 3)
            try:
                await self._parts.jobs.renew(self._worker, list(self._in_hand))
            except (NoStorage, StoreUnavailable):
                continue
            except Exception:
                log.exception("leases could not be renewed")

    async def _take(self, claim: Claim, sandbox: Sandbox) -> None:
        self._in_hand.append(claim.id)
        try:
            await self._ingest(claim, sandbox)
        finally:
            self._in_hand.remove(claim.id)

    async def _ingest(self, claim: Claim, sandbox: Sandbox) -> None:
        started = time.monotonic()
        try:
            with storing("a document's passages"):
                ingestion = await import_aside(load_file_ingestion)
                rows = await ingestion(self._parts, claim, sandbox).run()
        except LeaseLost:
            log.info("a file was taken over or its collection deleted: dropped here")
            return
        except AppError as error:
            await self._failed(claim, error)
            return
        except Exception:
            log.exception("a file could not be ingested")
            await self._failed(claim, InternalError("The document could not be ingested"))
            return
        log.info("a file became %d passages in %.1f s", rows, time.monotonic() - started)
        await self._count(claim, rows)

    async def _failed(self, claim: Claim, error: AppError) -> None:
        # what was taken in is kept for as long as the disk is full, or the database away
        if isinstance(error, NoStorage | StoreUnavailable) or (
            isinstance(error, TRANSIENT) and claim.attempts < MOST_ATTEMPTS
        ):
            wait = max(min(2.0 ** min(claim.attempts, 10), LONGEST_WAIT), min(error.retry_after or 0, LONGEST_WAIT))
            await self._parts.jobs.give_back(claim, wait)
            return
        if await self._parts.jobs.fail(claim, error):
            await self._parts.uploads.remove(claim.spooled)

    async def _count(self, claim: Claim, rows: int) -> None:
        key = (claim.tenant, claim.collection)
        before, commits = self._new_rows.get(key, (0, 0))
        self._new_rows[key] = (before + rows, commits + 1)
        if before + rows >= ROWS_BEFORE_UPKEEP or commits + 1 >= COMMITS_BEFORE_UPKEEP:
            await self._tend(*key)

    async def _tend_all(self) -> None:
        for key in list(self._new_rows):
            await self._tend(*key)

    async def _tend(self, tenant: str, collection: str) -> None:
        async with self._tending:
            if self._new_rows.pop((tenant, collection), None) is None:
                return
            try:
                await self._parts.committing(tenant, collection, lambda: self._upkeep(tenant, collection))
            except NotFound:
                return
            except Exception:
                # searching goes on without: what no index covers is looked through
                log.exception("the indices of a collection could not be brought up to date")

    async def _upkeep(self, tenant: str, collection: str) -> None:
        await (await self._parts.database.writing(tenant, collection)).tend()


def load_file_ingestion() -> "type[FileIngestion]":
    """With numpy, which a service without documents does not need."""
    from apps.rag.file_ingestion import FileIngestion

    return FileIngestion
