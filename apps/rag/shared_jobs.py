"""The queue of several machines, in the database of DATABASE_URL; and their uploads, where no folder is shared."""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence, Set
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from apps.core.errors import AppError, InternalError, NotFound
from apps.core.storage import storing
from apps.operations.database import Database, with_statements
from apps.rag.job_queue import LONGEST_WAIT, OPEN, Claim, NewFile, Waiting, claim_of, job_of, written
from apps.rag.jobs import jobs_in
from apps.rag.records import Job, Limits
from apps.rag.uploads import ORPHAN_SECONDS, Identity, LocalUploads, Spool, Uploads, locked

if TYPE_CHECKING:
    from apps.operations.document_jobs import JobStatements

T = TypeVar("T")
JobWork = Callable[["JobStatements"], Awaitable[T]]

# workers can wait a little, and must not keep the database's connections from those who cannot
AT_ONCE = 3
SECONDS = 10.0
PART = 2**20
# of one transaction: a statement has less than a second, and a job has many files, a part is a mebibyte
JOBS_AT_ONCE = 100
PARTS_AT_ONCE = 50

log = logging.getLogger(__name__)
NOT_BEGUN = {"status": "queued", "pages": 0, "passages": 0, "embedded": 0, "percent": 0.0, "attempts": 0, "due": 0.0}


class QueueDatabase:
    """The statements of one queue, each in a transaction. Raises StoreUnavailable."""

    def __init__(self, database: Database, place: Identity, clock: Callable[[], float] | None = None) -> None:
        self._database = database
        self._place = place
        self._clock = clock
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, work: JobWork[T]) -> T:
        queue = await self._place.name()
        async with self._turn:
            in_queue = with_statements(lambda on: work(on.documents(queue, self._clock)))
            return await self._database.write(in_queue, SECONDS)

    async def in_batches(self, work: Callable[["JobStatements", int], Awaitable[int]], most: int) -> None:
        """Repeat what does a part at a time, and says how much, until there is no more."""
        while await self(lambda jobs: work(jobs, most)) == most:
            continue


class DatabaseJobs:
    """Implements JobQueue. What the file ``before`` has waiting, from a time without DATABASE_URL, moves here."""

    def __init__(self, database: QueueDatabase, limits: Limits, uploads: Uploads, before: Path) -> None:
        self._database = database
        self._limits = limits
        self._uploads = uploads
        self._before = before

    async def refuse_overload(self, tenant: str, files: int, size: int) -> None:
        Waiting(*await self._database(lambda jobs: jobs.waiting(tenant))).refuse(self._limits, files, size)

    async def add(self, tenant: str, collection: str, files: Sequence[NewFile]) -> str:
        job = uuid.uuid4().hex
        size = sum(file.bytes for file in files)

        async def work(jobs: "JobStatements") -> None:
            await jobs.add_in_turn()
            Waiting(*await jobs.waiting(tenant)).refuse(self._limits, len(files), size)
            head = {"id": job, "tenant": tenant, "collection": collection, "created": await jobs.now()}
            await jobs.add(head, [_row(tenant, collection, file) for file in files])

        await self._database(work)
        return job

    async def job(self, tenant: str, job: str) -> Job:
        found = await self._database(lambda jobs: jobs.job(tenant, job))
        if found is None:
            raise NotFound("No such job", field="job")
        return job_of(*found)

    async def claim(self, worker: str) -> Claim | None:
        lease = self._limits.lease_seconds
        row = await self._database(lambda jobs: jobs.claim(worker, lease, LONGEST_WAIT))
        return None if row is None else claim_of(row, worker)

    async def renew(self, worker: str, ids: Sequence[int]) -> None:
        if ids:
            await self._database(lambda jobs: jobs.renew(worker, ids, self._limits.lease_seconds))

    async def note(self, claim: Claim, pages: int, passages: int, embedded: int, percent: float) -> bool:
        values = {"pages": pages, "passages": passages, "embedded": embedded, "percent": percent}
        return await self._database(lambda jobs: jobs.progress(_held(claim), values))

    async def holds(self, claim: Claim) -> bool:
        lease = self._limits.lease_seconds
        return await self._database(lambda jobs: jobs.change(_held(claim), {}, due_in=lease))

    async def finish(self, claim: Claim, pages: int, passages: int, warnings: Sequence[str] = ()) -> bool:
        values = {"status": "done", "pages": pages, "passages": passages, "embedded": passages}
        changes = {**values, "warnings": json.dumps(list(warnings))}
        return await self._database(lambda jobs: jobs.change(_held(claim), changes, ends=True))

    async def fail(self, claim: Claim, error: AppError) -> bool:
        values = {"status": "failed", "error": written(error)}
        return await self._database(lambda jobs: jobs.change(_held(claim), values, ends=True))

    async def give_back(self, claim: Claim, wait: float) -> bool:
        values = {"status": "queued", "worker": None}
        return await self._database(lambda jobs: jobs.change(_held(claim), values, due_in=wait))

    async def release(self, worker: str) -> None:
        await self._database(lambda jobs: jobs.release(worker))

    async def cancel(self, tenant: str, collection: str, error: AppError, document: str | None = None) -> list[str]:
        return await self._database(lambda jobs: jobs.cancel(tenant, collection, written(error), document))

    async def open_files(self, tenant: str, collection: str) -> int:
        return await self._database(lambda jobs: jobs.open_files(tenant, collection))

    async def open(self) -> None:
        await self._move()
        await self._database(lambda jobs: jobs.now())

    async def forget(self) -> set[str]:
        seconds = self._limits.job_seconds
        await self._database.in_batches(lambda jobs, most: jobs.forget(seconds, most), JOBS_AT_ONCE)
        await self._database.in_batches(lambda jobs, most: jobs.drop_abandoned_uploads(seconds, most), PARTS_AT_ONCE)
        return await self._database(lambda jobs: jobs.open_spooled())

    async def _move(self) -> None:
        """Jobs of SQLite's file, with their numbers; done by one process, and again where it was broken off."""
        if not self._before.exists():
            return
        async with locked(self._before.with_suffix(".moving")):
            if not self._before.exists():
                return
            jobs = await asyncio.to_thread(jobs_in, self._before, self._limits)
            for job in jobs:
                await self._move_one(*job)
            self._before.replace(self._before.with_suffix(".moved"))
        log.info("%d jobs have moved from %s to the database", len(jobs), self._before.name)

    async def _move_one(self, head: dict[str, Any], files: list[dict[str, Any]]) -> None:
        waiting = [file["spooled"] for file in files if file["status"] in OPEN]
        await self._uploads.keep([name for name in waiting if self._uploads.spool.path(name).exists()])
        await self._database(lambda rows: rows.add(head, files))

    async def aclose(self) -> None:
        """The database is closed by its owner."""


def _held(claim: Claim) -> tuple[int, str, int]:
    return claim.id, claim.worker, claim.attempts


def _row(tenant: str, collection: str, file: NewFile) -> dict[str, object]:
    described = {"name": file.name, "document": file.document, "bytes": file.bytes, "spooled": file.spooled}
    return {"tenant": tenant, "collection": collection, **described, "metadata": json.dumps(file.metadata), **NOT_BEGUN}


class DatabaseUploads(LocalUploads):
    """Implements Uploads: what is taken in goes to the database, where a worker of any machine finds it."""

    def __init__(self, spool: Spool, database: QueueDatabase) -> None:
        super().__init__(spool)
        self._database = database

    async def keep(self, spooled: Sequence[str]) -> None:
        for name in spooled:
            with self.spool.path(name).open("rb") as file:
                part = 0
                while content := await asyncio.to_thread(file.read, PART):
                    await self._keep(name, part, content)
                    part += 1
        await super().remove(*spooled)

    async def _keep(self, name: str, part: int, content: bytes) -> None:
        await self._database(lambda jobs: jobs.keep_part(name, part, content))

    @asynccontextmanager
    async def opened(self, spooled: str) -> AsyncGenerator[Path, None]:
        """A copy of it on this machine. Raises InternalError where it is gone."""
        copy = f"{spooled}-{uuid.uuid4().hex}"
        path = self.spool.path(copy)
        try:
            with storing("an upload"):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    part = 0
                    while (content := await self._part(spooled, part)) is not None:
                        await asyncio.to_thread(file.write, content)
                        part += 1
            if part == 0:
                raise InternalError("The upload is not in the database any more")
            yield path
        finally:
            await super().remove(copy)

    async def _part(self, spooled: str, part: int) -> bytes | None:
        return await self._database(lambda jobs: jobs.part(spooled, part))

    async def remove(self, *spooled: str) -> None:
        if spooled:
            await super().remove(*spooled)
            await self._database(lambda jobs: jobs.drop_uploads(spooled))

    async def sweep(self, known: Set[str]) -> None:
        await super().sweep(known)
        await self._database.in_batches(lambda jobs, most: jobs.sweep_uploads(ORPHAN_SECONDS, most), PARTS_AT_ONCE)
