"""The jobs, in SQLite: what was taken in and how far it is, shared by the processes of a machine.

``JobTable`` blocks; ``JobThread`` calls it in a thread of its own.
"""

import asyncio
import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from apps.core.errors import AppError, NotFound
from apps.core.storage import storing
from apps.rag.job_queue import LONGEST_WAIT, Claim, NewFile, Waiting, claim_of, job_of, written
from apps.rag.records import Job, Limits

OPENING_SECONDS = 30
JOBS_AT_ONCE = 100
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, collection TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    tenant TEXT NOT NULL, collection TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL,
    metadata TEXT NOT NULL, bytes INTEGER NOT NULL, spooled TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'queued', pages INTEGER NOT NULL DEFAULT 0, passages INTEGER NOT NULL DEFAULT 0,
    embedded INTEGER NOT NULL DEFAULT 0, percent REAL NOT NULL DEFAULT 0, error TEXT,
    worker TEXT, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, finished REAL, warnings TEXT,
    started REAL
);
CREATE INDEX IF NOT EXISTS files_of_job ON files (job);
CREATE INDEX IF NOT EXISTS files_open ON files (tenant, collection, name) WHERE status IN ('queued', 'running');
CREATE TABLE IF NOT EXISTS turns (tenant TEXT PRIMARY KEY, taken REAL NOT NULL);
"""
ADDED = {"warnings": "TEXT", "started": "REAL"}
# what is due later than anything can be was due before the clock was set back;
# the oldest file of each name first (its later version must win), tenants in turn, what killed a worker last
CLAIM = """
SELECT f.* FROM files f LEFT JOIN turns t ON t.tenant = f.tenant
WHERE f.status IN ('queued', 'running') AND (f.due <= :now OR f.due > :latest) AND NOT EXISTS (
    SELECT 1 FROM files e WHERE e.status IN ('queued', 'running') AND e.tenant = f.tenant
    AND e.collection = f.collection AND e.name = f.name AND e.id < f.id)
ORDER BY f.attempts, coalesce(t.taken, 0), f.id LIMIT 1
"""


def _patiently(database: sqlite3.Connection, statement: str) -> None:
    """SQLite does not wait by itself where two processes turn a new file into WAL at the same time."""
    ends = time.monotonic() + OPENING_SECONDS
    while True:
        try:
            database.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                raise
            time.sleep(0.02)
        else:
            return


class JobTable:
    """One connection; one thread at a time."""

    def __init__(self, path: Path, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._clock = clock
        self._db = sqlite3.connect(path, timeout=OPENING_SECONDS, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        # FULL: what was acknowledged is on the disk
        for line in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            _patiently(self._db, f"PRAGMA {line}")
        self._db.executescript(SCHEMA)
        self._widen()

    def close(self) -> None:
        self._db.close()

    def _widen(self) -> None:
        """Columns that a table of before does not have yet. Another process may be adding them too."""
        with self._writing() as db:
            known = {row["name"] for row in db.execute("PRAGMA table_info(files)")}
            for name, kind in ADDED.items():
                if name not in known:
                    db.execute(f"ALTER TABLE files ADD COLUMN {name} {kind}")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            # a full disk has rolled back already; a commit that failed has not
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def refuse_overload(self, tenant: str, files: int, size: int) -> None:
        """Raises Overloaded where the queue has no room for them."""
        row = self._db.execute(
            "SELECT count(*) n, coalesce(sum(bytes), 0) b, coalesce(sum(tenant = ?), 0) own,"
            " coalesce(sum(iif(tenant = ?, bytes, 0)), 0) own_b FROM files WHERE status IN ('queued', 'running')",
            (tenant, tenant),
        ).fetchone()
        Waiting(row["n"], row["b"], row["own"], row["own_b"]).refuse(self._limits, files, size)

    def add(self, tenant: str, collection: str, files: Sequence[NewFile]) -> str:
        job = uuid.uuid4().hex
        with self._writing() as db:
            self.refuse_overload(tenant, len(files), sum(file.bytes for file in files))
            db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?)", (job, tenant, collection, self._clock()))
            db.executemany(
                "INSERT INTO files (job, tenant, collection, name, document, metadata, bytes, spooled)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (job, tenant, collection, f.name, f.document, json.dumps(f.metadata), f.bytes, f.spooled)
                    for f in files
                ],
            )
        return job

    def job(self, tenant: str, job: str) -> Job:
        row = self._db.execute("SELECT * FROM jobs WHERE id = ? AND tenant = ?", (job, tenant)).fetchone()
        if row is None:
            raise NotFound("No such job", field="job")
        files = self._db.execute("SELECT * FROM files WHERE job = ? ORDER BY id", (job,)).fetchall()
        return job_of(dict(row), [dict(file) for file in files])

    def claim(self, worker: str) -> Claim | None:
        now = self._clock()
        latest = now + 2 * max(self._limits.lease_seconds, LONGEST_WAIT)
        with self._writing() as db:
            row = db.execute(CLAIM, {"now": now, "latest": latest}).fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE files SET status = 'running', worker = ?, due = ?, attempts = attempts + 1,"
                " started = coalesce(started, ?) WHERE id = ?",
                (worker, now + self._limits.lease_seconds, now, row["id"]),
            )
            db.execute("INSERT OR REPLACE INTO turns VALUES (?, ?)", (row["tenant"], now))
        return claim_of(dict(row), worker)

    def renew(self, worker: str, ids: Sequence[int]) -> None:
        due = self._clock() + self._limits.lease_seconds
        statement = "UPDATE files SET due = ? WHERE worker = ? AND status = 'running' AND id = ?"
        with self._writing() as db:
            db.executemany(statement, [(due, worker, id) for id in ids])

    def note(self, claim: Claim, pages: int, passages: int, embedded: int, percent: float) -> bool:
        """Progress, which never goes back; False where the lease is lost."""
        return self._own(
            claim,
            "pages = max(pages, ?), passages = max(passages, ?),"
            " embedded = max(embedded, ?), percent = max(percent, ?)",
            (pages, passages, embedded, percent),
        )

    def holds(self, claim: Claim) -> bool:
        return self._own(claim, "due = ?", (self._clock() + self._limits.lease_seconds,))

    def finish(self, claim: Claim, pages: int, passages: int, warnings: Sequence[str] = ()) -> bool:
        changes = "status = 'done', percent = 100, pages = ?, passages = ?, embedded = ?, finished = ?, warnings = ?"
        return self._own(claim, changes, (pages, passages, passages, self._clock(), json.dumps(list(warnings))))

    def fail(self, claim: Claim, error: AppError) -> bool:
        changes = "status = 'failed', percent = 100, error = ?, finished = ?"
        return self._own(claim, changes, (written(error), self._clock()))

    def give_back(self, claim: Claim, wait: float) -> bool:
        """Another try after ``wait`` seconds."""
        return self._own(claim, "status = 'queued', worker = NULL, due = ?", (self._clock() + wait,))

    def release(self, worker: str) -> None:
        """What a worker that ends has not finished; that says nothing about the files."""
        self._db.execute(
            "UPDATE files SET status = 'queued', worker = NULL, due = 0, attempts = attempts - 1"
            " WHERE worker = ? AND status = 'running'",
            (worker,),
        )

    def _own(self, claim: Claim, changes: str, values: tuple[Any, ...]) -> bool:
        # the try too: a worker may lose a file and claim it again
        mine = "id = ? AND worker = ? AND attempts = ? AND status = 'running'"
        statement = f"UPDATE files SET {changes} WHERE {mine}"  # noqa: S608
        return self._db.execute(statement, (*values, claim.id, claim.worker, claim.attempts)).rowcount == 1

    def cancel(self, tenant: str, collection: str, error: AppError, document: str | None = None) -> list[str]:
        """Fail what waits or runs; the names of what was spooled for it."""
        where = "tenant = ? AND collection = ? AND status IN ('queued', 'running')"
        values: tuple[Any, ...] = (tenant, collection)
        if document is not None:
            where, values = f"{where} AND document = ?", (*values, document)
        changes = "status = 'failed', percent = 100, worker = NULL, error = ?, finished = ?"
        with self._writing() as db:
            statement = f"UPDATE files SET {changes} WHERE {where} RETURNING spooled"  # noqa: S608
            rows = db.execute(statement, (written(error), self._clock(), *values)).fetchall()
        return [row["spooled"] for row in rows]

    def open_files(self, tenant: str, collection: str) -> int:
        """How many files wait or are ingested now."""
        where = "tenant = ? AND collection = ? AND status IN ('queued', 'running')"
        return int(self._db.execute(f"SELECT count(*) FROM files WHERE {where}", (tenant, collection)).fetchone()[0])  # noqa: S608

    def open_spooled(self) -> set[str]:
        rows = self._db.execute("SELECT spooled FROM files WHERE status IN ('queued', 'running')").fetchall()
        return {row["spooled"] for row in rows}

    def rows(self) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Jobs with their files; what was running waits."""
        jobs = []
        for job in self._db.execute("SELECT * FROM jobs ORDER BY created").fetchall():
            files = [
                dict(row) for row in self._db.execute("SELECT * FROM files WHERE job = ? ORDER BY id", (job["id"],))
            ]
            for file in files:
                del file["id"]
                if file["status"] == "running":
                    file |= {"status": "queued", "worker": None, "due": 0.0}
            jobs.append((dict(job), files))
        return jobs

    def forget(self, most: int) -> int:
        """Jobs that were finished long ago, at most so many; how many they were."""
        before = self._clock() - self._limits.job_seconds
        with self._writing() as db, closing(db.cursor()) as cursor:
            cursor.execute(
                "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE created < ? AND NOT EXISTS"
                " (SELECT 1 FROM files WHERE job = jobs.id AND (finished IS NULL OR finished > ?)) LIMIT ?)",
                (before, before, most),
            )
            return cursor.rowcount


def jobs_in(path: Path, limits: Limits) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """All jobs of a table and their files, as rows; nobody holds any of them."""
    table = JobTable(path, limits)
    try:
        return table.rows()
    finally:
        table.close()


T = TypeVar("T")


class JobThread:
    """Implements JobQueue over a JobTable, which is opened at the first call."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._pool = ThreadPoolExecutor(1, "rag-jobs")
        self._table: JobTable | None = None

    async def open(self) -> None:
        await self._run(lambda table: table.open_spooled())

    async def refuse_overload(self, tenant: str, files: int, size: int) -> None:
        await self._run(lambda table: table.refuse_overload(tenant, files, size))

    async def add(self, tenant: str, collection: str, files: Sequence[NewFile]) -> str:
        return await self._run(lambda table: table.add(tenant, collection, files))

    async def job(self, tenant: str, job: str) -> Job:
        return await self._run(lambda table: table.job(tenant, job))

    async def claim(self, worker: str) -> Claim | None:
        return await self._run(lambda table: table.claim(worker))

    async def renew(self, worker: str, ids: Sequence[int]) -> None:
        if ids:
            await self._run(lambda table: table.renew(worker, ids))

    async def note(self, claim: Claim, pages: int, passages: int, embedded: int, percent: float) -> bool:
        return await self._run(lambda table: table.note(claim, pages, passages, embedded, percent))

    async def holds(self, claim: Claim) -> bool:
        return await self._run(lambda table: table.holds(claim))

    async def finish(self, claim: Claim, pages: int, passages: int, warnings: Sequence[str] = ()) -> bool:
        return await self._run(lambda table: table.finish(claim, pages, passages, warnings))

    async def fail(self, claim: Claim, error: AppError) -> bool:
        return await self._run(lambda table: table.fail(claim, error))

    async def give_back(self, claim: Claim, wait: float) -> bool:
        return await self._run(lambda table: table.give_back(claim, wait))

    async def release(self, worker: str) -> None:
        await self._run(lambda table: table.release(worker))

    async def cancel(self, tenant: str, collection: str, error: AppError, document: str | None = None) -> list[str]:
        return await self._run(lambda table: table.cancel(tenant, collection, error, document))

    async def open_files(self, tenant: str, collection: str) -> int:
        return await self._run(lambda table: table.open_files(tenant, collection))

    async def forget(self) -> set[str]:
        # between two parts workers have their turn
        while await self._run(lambda table: table.forget(JOBS_AT_ONCE)) == JOBS_AT_ONCE:
            continue
        return await self._run(lambda table: table.open_spooled())

    async def aclose(self) -> None:
        if self._table is not None:
            await self._run(lambda table: table.close())
        await asyncio.to_thread(self._pool.shutdown)

    async def _run(self, work: Callable[[JobTable], T]) -> T:
        """Raises NoStorage where the disk refuses it."""
        with storing("the table of jobs"):
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(self._opened()))

    def _opened(self) -> JobTable:
        if self._table is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._table = JobTable(self._path, self._limits)
        return self._table
