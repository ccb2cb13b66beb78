"""What the library and its workers share, put together once."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from apps.core.ports import Embedder
from apps.rag.index.database import Database
from apps.rag.job_thread import JobThread
from apps.rag.limits import Limits
from apps.rag.locks import locked
from apps.rag.names import tenant_folder
from apps.rag.spool import Spool


@dataclass(frozen=True, slots=True)
class Parts:
    embedder: Embedder
    tokenizer: Path | None
    limits: Limits
    jobs: JobThread
    spool: Spool
    database: Database
    locks: Path

    def writers_lock(self, tenant: str, collection: str) -> AbstractAsyncContextManager[None]:
        """Who commits to the collection, among all processes on this folder."""
        return locked(self.locks / f"{tenant_folder(tenant)}.{collection}")


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
