"""The queue of files to ingest, as its users see it; `jobs.py` keeps it in SQLite, `shared_jobs.py` in PostgreSQL.

A file is ingested by the worker that holds its lease. A lease that is not renewed runs out, and the file is free again:
that is how a killed worker's files come back.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from apps.core.errors import AppError, Overloaded
from apps.core.messages import JsonObject
from apps.rag.records import FileProgress, Job, Limits, MetadataValue, Status

LONGEST_WAIT = 60.0
"""Seconds that a file waits at most for another try."""
OPEN = ("queued", "running")


class LeaseLost(Exception):
    """Another worker has the file now, or its collection was deleted."""


@dataclass(frozen=True, slots=True)
class NewFile:
    name: str
    document: str
    metadata: dict[str, MetadataValue]
    bytes: int
    spooled: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A file that this worker may ingest."""

    id: int
    tenant: str
    collection: str
    name: str
    document: str
    metadata: dict[str, MetadataValue]
    bytes: int
    spooled: str
    attempts: int
    worker: str


class JobQueue(Protocol):
    """Durable before a call returns. Raises NoStorage or StoreUnavailable where it cannot be.

    What is said of a claim whose lease is lost changes nothing, and is answered with False.
    """

    async def open(self) -> None:
        """Before workers begin: find out that it can be used. What waits in a place of before moves here."""

    async def refuse_overload(self, tenant: str, files: int, size: int) -> None:
        """Raises Overloaded where the queue has no room for them."""

    async def add(self, tenant: str, collection: str, files: Sequence[NewFile]) -> str:
        """The new job's id. Raises Overloaded."""

    async def job(self, tenant: str, job: str) -> Job:
        """Raises NotFound."""

    async def claim(self, worker: str) -> Claim | None: ...

    async def renew(self, worker: str, ids: Sequence[int]) -> None:
        """Keep the worker's leases of these files. Others that it has by the table, and does not know of, run out."""

    async def note(self, claim: Claim, pages: int, passages: int, embedded: int, percent: float) -> bool:
        """Progress, which never goes back."""

    async def holds(self, claim: Claim) -> bool:
        """Whether the lease is held; it is renewed."""

    async def finish(self, claim: Claim, pages: int, passages: int, warnings: Sequence[str] = ()) -> bool: ...

    async def fail(self, claim: Claim, error: AppError) -> bool: ...

    async def give_back(self, claim: Claim, wait: float) -> bool:
        """Another try after ``wait`` seconds."""

    async def release(self, worker: str) -> None:
        """What a worker that ends has not finished; that says nothing about the files."""

    async def cancel(self, tenant: str, collection: str, error: AppError, document: str | None = None) -> list[str]:
        """Fail what waits or runs; the names of what was spooled for it."""

    async def open_files(self, tenant: str, collection: str) -> int:
        """How many files wait or are ingested now."""

    async def forget(self) -> set[str]:
        """Jobs that were finished long ago, a part at a time. Returns what is still spooled for the others."""

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in a queue, of all tenants and of one."""

    files: int
    bytes: int
    own_files: int
    own_bytes: int

    def refuse(self, limits: Limits, files: int, size: int) -> None:
        """Raises Overloaded where there is no room for ``files`` more of ``size`` bytes."""
        full = self.files + files > limits.queued_files or self.bytes + size > limits.queued_bytes
        own_bytes = self.own_bytes + size
        own = self.own_files + files > limits.queued_files // 2 or own_bytes > limits.queued_bytes // 2
        if full or own:
            raise Overloaded("Too many documents wait to be ingested", retry_after=30)


def claim_of(row: Mapping[str, Any], worker: str) -> Claim:
    """``row`` is as it was before it was claimed."""
    names = ("id", "tenant", "collection", "name", "document", "bytes", "spooled")
    kept = {name: row[name] for name in names}
    return Claim(**kept, metadata=json.loads(row["metadata"]), attempts=row["attempts"] + 1, worker=worker)


def job_of(job: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> Job:
    size = sum(max(file["bytes"], 1) for file in files)
    percent = sum(file["percent"] * max(file["bytes"], 1) for file in files) / size
    progress = tuple(_progress(file) for file in files)
    return Job(job["id"], job["collection"], _status(progress), round(percent, 1), progress, job["created"])


def written(error: AppError) -> str:
    return json.dumps(error.envelope()["error"])


def _progress(row: Mapping[str, Any]) -> FileProgress:
    error: JsonObject | None = json.loads(row["error"]) if row["error"] else None
    warnings = tuple(json.loads(row["warnings"])) if row["warnings"] else ()
    counts = (row["pages"], row["passages"], row["embedded"])
    return FileProgress(
        row["name"], row["document"], row["status"], *counts, error, warnings, row["started"], row["finished"]
    )


def _status(files: Sequence[FileProgress]) -> Status:
    states = {file.status for file in files}
    if states == {"queued"}:
        return "queued"
    if states & {"queued", "running"}:
        return "running"
    return "failed" if "failed" in states else "done"
