"""What the library and its workers share, put together once."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from apps.core.ports import Embedder
from apps.core.storage import storing
from apps.rag.index.database import Database
from apps.rag.job_thread import JobThread
from apps.rag.limits import Limits
from apps.rag.locks import locked
from apps.rag.names import tenant_folder
from apps.rag.spool import Spool

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    embedder: Embedder
    tokenizer: Path | None
    limits: Limits
    jobs: JobThread
    spool: Spool
    database: Database
    locks: Path

    async def committing(self, tenant: str, collection: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do what commits to the collection, alone among all processes on this folder.

        Once begun it is done to its end, also where the caller is cancelled: a commit that goes on behind a lock
        that was given up could meet another one. Raises NoStorage where the disk refuses it.
        """
        async with locked(self.locks / f"{tenant_folder(tenant)}.{collection}"):
            task = asyncio.create_task(work())
            try:
                with storing("the index"):
                    return await asyncio.shield(task)
            except asyncio.CancelledError:
                await asyncio.wait({task})
                raise


def put_together(folder: Path, uri: str, embedder: Embedder, tokenizer: Path | None, limits: Limits) -> Parts:
    """Folders are made when something is put into them."""
    folder = folder.resolve()
    return Parts(
        embedder,
        tokenizer.resolve() if tokenizer else None,
        limits,
        JobThread(folder / "jobs.sqlite3", limits),
        Spool(folder / "spool", limits.file_bytes),
        Database(uri or str(folder / "index")),
        folder / "locks",
    )
