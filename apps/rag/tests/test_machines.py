"""Several machines, which share a database and a store of objects: one queue, and nothing lost or doubled by kills."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import lancedb
import pytest

from apps.operations.database import Database
from apps.rag.library import Library
from apps.rag.records import Job, Upload, tenant_folder
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS
from apps.tests.support.postgres_server import needs_postgres, postgres_server
from apps.tests.support.s3_server import needs_s3, s3_server

pytestmark = [pytest.mark.local, pytest.mark.long, needs_postgres]

ROOT = Path(__file__).parents[3]
FILES, NAMES = 60, 40
KILL_AT = (4, 12, 25)
"""Files that are done when a machine is killed."""
# an S3 server in Python is slow
FEW_FILES, FEW_NAMES, KILL_FEW_AT = 24, 16, (3, 9)


class Machine:
    """A process with a folder of its own."""

    def __init__(self, folder: Path, url: str, index: str) -> None:
        command = [sys.executable, "-W", "error", "-m", "apps.rag.tests.machine_process", str(folder), url, index]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None and self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> int:
        self.process.communicate(b"", timeout=90)
        return self.process.returncode


@pytest.fixture
def folder_store(tmp_path: Path) -> str:
    """Where the index is."""
    return f"file://{tmp_path / 'store'}"


@pytest.fixture
def s3_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same on an S3 server, which machines find by the environment."""
    with s3_server(tmp_path, "bucket") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield "s3://bucket/rag"


@pytest.mark.parametrize(
    ("store", "files", "names", "kill_at"),
    [
        ("folder_store", FILES, NAMES, KILL_AT),
        pytest.param("s3_store", FEW_FILES, FEW_NAMES, KILL_FEW_AT, marks=needs_s3),
    ],
)
async def test_machines_take_from_one_queue_and_kill_9_loses_nothing_and_doubles_nothing(
    store: str, files: int, names: int, kill_at: Sequence[int], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with postgres_server() as server:
        url, index = server.create("machines"), str(request.getfixturevalue(store))
        made = iter(range(99))

        def machine() -> Machine:
            return Machine(tmp_path / f"machine {next(made)}", url, index)

        database = Database(url, tmp_path, 60.0)
        await database.start()
        # it takes files in and ingests none
        library = Library(tmp_path / "front", HashingEmbedder(), uri=index, limits=LIMITS, database=database)
        uploads = [Upload(f"{n % names}.txt", _text(n)) for n in range(files)]
        jobs = [await library.submit("ann", "docs", uploads[start : start + 5]) for start in range(0, files, 5)]
        machines = await asyncio.gather(*(asyncio.to_thread(machine) for _ in range(2)))
        for least in kill_at:
            await _done(library, jobs, least)
            victim, *others = machines
            victim.kill()
            machines = [*others, await asyncio.to_thread(machine)]
        told = await _done(library, jobs, files)
        assert [job.status for job in told] == ["done"] * len(jobs)
        assert [await asyncio.to_thread(one.end) for one in machines] == [0, 0]
        workers = int(server.psql("SELECT count(DISTINCT worker) FROM rag_files", "machines"))
        kept = server.psql("SELECT count(*) FROM rag_uploads", "machines").strip()
        await library.aclose()
        await database.aclose()
    assert workers > 1 and kept == "0", "all took part, and no upload is left"
    await _check(index, {file.name: file.document for job in jobs for file in job.files})


def _text(number: int) -> bytes:
    """Several passages."""
    parts = (f"Part {part} of version {number}. " + "It says a few words more. " * 9 for part in range(4))
    return "\n\n".join(parts).encode()


async def _done(library: Library, jobs: list[Job], least: int) -> list[Job]:
    """The jobs, when so many of their files are finished."""
    async with asyncio.timeout(240):
        while True:
            now = [await library.job("ann", job.id) for job in jobs]
            if sum(file.finished is not None for job in now for file in job.files) >= least:
                return now
            await asyncio.sleep(0.05)


async def _check(index: str, newest: dict[str, str]) -> None:
    connection = await lancedb.connect_async(f"{index}/{tenant_folder('ann')}")
    table = await connection.open_table("c-docs")
    rows = await table.query().select(["id", "document", "ordinal", "names", "passages"]).to_list()
    assert max(Counter(row["id"] for row in rows).values()) == 1, "no passage is there twice"
    by_document: dict[str, list[int]] = {}
    for row in rows:
        by_document.setdefault(row["document"], []).append(row["ordinal"])
    assert all(sorted(by_document[row["document"]]) == list(range(row["passages"])) for row in rows)
    assert {name: row["document"] for row in rows for name in row["names"]} == newest
