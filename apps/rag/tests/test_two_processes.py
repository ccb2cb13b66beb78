"""Two processes on one folder: each file is ingested once, and both see everything."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from apps.core.errors import InvalidValue
from apps.rag.ingestion import Ingestion
from apps.rag.job_queue import NewFile
from apps.rag.jobs import JobThread
from apps.rag.library import Library
from apps.rag.records import Upload
from apps.rag.storage import put_together
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS, finished, names
from apps.rag.uploads import LocalUploads, Spool

pytestmark = pytest.mark.local

ROOT = Path(__file__).parents[3]
FILES = 60
WORKER = """
import asyncio, sys
from pathlib import Path
from apps.rag.library import Library
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS
async def run():
    library = Library(Path(sys.argv[1]), HashingEmbedder(seconds=0.02), limits=LIMITS)
    await library.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await library.aclose()
asyncio.run(run())
"""


class ReadTogether(LocalUploads):
    """None is read before two are."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool)
        self._readers = 0
        self._both = asyncio.Event()

    @asynccontextmanager
    async def opened(self, spooled: str) -> AsyncGenerator[Path, None]:
        self._readers += 1
        if self._readers == 2:
            self._both.set()
        await self._both.wait()
        raise InvalidValue("It was read beside another")
        yield self.spool.path(spooled)


async def test_workers_that_have_long_been_idle_all_take_what_another_process_submits(tmp_path: Path) -> None:
    now = 0.0
    parts = put_together(tmp_path, "", HashingEmbedder(), None, replace(LIMITS, workers=2))
    uploads = ReadTogether(Spool(tmp_path / "spool", 2**20))
    ingestion = Ingestion(replace(parts, uploads=uploads), clock=lambda: now, idle_poll=0.005)
    ingestion.start()
    now = 3600.0
    other = JobThread(tmp_path / "jobs.sqlite3", LIMITS)
    async with asyncio.timeout(60):
        job = await other.add("ann", "docs", [NewFile(name, "0" * 64, {}, 1, name) for name in ("a", "b")])
        while not (state := await other.job("ann", job)).finished:  # noqa: ASYNC110 - the table tells no one
            await asyncio.sleep(0.01)
    assert [file.error and file.error["message"] for file in state.files] == ["It was read beside another"] * 2
    await ingestion.aclose()
    await parts.jobs.aclose()
    await other.aclose()


@pytest.mark.long
async def test_no_file_is_ingested_twice_and_none_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WORKER, str(tmp_path)]
    workers = [
        await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
    library = Library(tmp_path, HashingEmbedder(), limits=LIMITS)
    uploads = [Upload(f"{n % 40}.txt", f"text number {n} in version {n // 40}".encode()) for n in range(FILES)]
    jobs = [await library.submit("ann", "docs", uploads[start : start + 5]) for start in range(0, FILES, 5)]
    async with asyncio.timeout(60):
        assert [(await finished(library, "ann", job)).status for job in jobs] == ["done"] * len(jobs)
    for worker in workers:
        _, errors = await worker.communicate(b"")
        assert (worker.returncode, errors) == (0, b"")
    assert len(await names(library)) == 40
    found = {document.name: document.id for document in await library.documents("ann", "docs", limit=100)}
    for number, upload in enumerate(uploads):
        newest = number >= FILES - 40
        assert (found[upload.name] == jobs[number // 5].files[number % 5].document) is newest
    await library.aclose()
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as table:
        attempts, workers_seen = table.execute("SELECT sum(attempts), count(DISTINCT worker) FROM files").fetchone()
    table.close()
    assert attempts == FILES, "a lease was never held twice"
    assert workers_seen == 2, "both took part"
