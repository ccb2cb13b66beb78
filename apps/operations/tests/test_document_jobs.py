"""The queue of documents in a database: leases, order, turns, limits, uploads, and one writer among machines."""

import asyncio
import os
import sqlite3
from collections.abc import Iterator, Set
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import text

from apps.core.errors import (
    Conflict,
    InternalError,
    InvalidValue,
    ModelUnavailable,
    NotFound,
    Overloaded,
    StoreUnavailable,
)
from apps.operations.database import Database
from apps.operations.document_jobs import JobStatements
from apps.operations.ledger_rows import DAY
from apps.rag.index.database import missing_requirements
from apps.rag.job_queue import JobQueue, NewFile
from apps.rag.jobs import JobTable
from apps.rag.library import Library
from apps.rag.records import Limits, Upload
from apps.rag.shared_jobs import JOBS_AT_ONCE, PARTS_AT_ONCE, DatabaseJobs, DatabaseUploads, QueueDatabase
from apps.rag.uploads import Housekeeping, Identity, LocalUploads, Spool
from apps.tests.support.clock import Clock
from apps.tests.support.migrated import borrowed, create_migrated
from apps.tests.support.postgres_server import PostgresServer
from apps.tests.support.word_models import WordEmbedder

LIMITS = Limits(lease_seconds=15)
STORE = "s3://bucket/rag"


@pytest.fixture
def clock() -> Clock:
    return Clock(10_000.0)


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """A queue of machines is in PostgreSQL, and nowhere else."""
    with borrowed(postgres) as lent:
        yield lent


@pytest.fixture
def queue(database: Database, clock: Clock) -> QueueDatabase:
    return QueueDatabase(database, Identity(STORE), clock)


@pytest.fixture
def uploads(queue: QueueDatabase, tmp_path: Path) -> DatabaseUploads:
    return DatabaseUploads(Spool(tmp_path / "spool", 2**23), queue)


@pytest.fixture
def jobs(queue: QueueDatabase, uploads: DatabaseUploads, tmp_path: Path) -> DatabaseJobs:
    return DatabaseJobs(queue, LIMITS, uploads, tmp_path / "jobs.sqlite3")


def new(name: str, size: int = 10) -> NewFile:
    return NewFile(name, "0" * 64, {"year": 1}, size, f"spooled {name}")


async def taken(jobs: JobQueue, worker: str, count: int) -> list[str]:
    """The names of the next files."""
    return [claim.name for _ in range(count) if (claim := await jobs.claim(worker))]


async def test_a_file_has_one_worker_until_its_lease_runs_out(jobs: DatabaseJobs, clock: Clock) -> None:
    await jobs.add("ann", "docs", [new("a")])
    first = await jobs.claim("one")
    assert first is not None and (first.metadata, first.attempts) == ({"year": 1}, 1)
    assert await jobs.claim("two") is None
    clock.now += 10
    await jobs.renew("one", [first.id])
    clock.now += 10
    assert await jobs.claim("two") is None and await jobs.holds(first)
    clock.now += 16
    second = await jobs.claim("two")
    assert second is not None and (second.id, second.attempts) == (first.id, 2)
    assert not await jobs.note(first, 1, 1, 1, 50)
    assert not await jobs.holds(first)
    assert not await jobs.finish(first, 1, 1)
    assert not await jobs.fail(first, InvalidValue("no"))
    assert not await jobs.give_back(first, 0)
    assert await jobs.finish(second, 3, 4, ["a page was empty"])
    assert await jobs.claim("one") is None


async def test_a_file_that_its_worker_does_not_know_of_is_free_when_its_lease_runs_out(
    jobs: DatabaseJobs, clock: Clock
) -> None:
    await jobs.add("ann", "docs", [new("known"), new("unknown")])
    known, unknown = await jobs.claim("w"), await jobs.claim("w")
    assert known is not None and unknown is not None
    for _ in range(3):
        clock.now += 10
        await jobs.renew("w", [known.id])
    assert await jobs.claim("other") is not None and await jobs.claim("other") is None
    await jobs.renew("w", [])
    assert await jobs.holds(known) and not await jobs.holds(unknown)


async def test_a_worker_that_lost_a_file_and_claims_it_again_holds_it_by_the_second_claim_alone(
    jobs: DatabaseJobs, clock: Clock
) -> None:
    await jobs.add("ann", "docs", [new("a")])
    first = await jobs.claim("w")
    clock.now += 16
    second = await jobs.claim("w")
    assert first is not None and second is not None and second.id == first.id
    assert (
        not await jobs.holds(first) and not await jobs.note(first, 1, 1, 1, 50) and not await jobs.finish(first, 1, 1)
    )
    assert await jobs.holds(second) and await jobs.finish(second, 1, 1)


async def test_versions_of_one_name_are_taken_in_order_and_tenants_in_turn(jobs: DatabaseJobs) -> None:
    await jobs.add("ann", "docs", [new("a"), new("b"), new("c")])
    await jobs.add("ann", "docs", [new("a")])
    await jobs.add("bob", "docs", [new("d")])
    first = await jobs.claim("w")
    assert first is not None and first.name == "a"
    assert await taken(jobs, "w", 9) == ["d", "b", "c"], "the second version waits for the first"
    await jobs.finish(first, 0, 1)
    assert await taken(jobs, "w", 9) == ["a"]


async def test_what_killed_its_worker_comes_last_and_what_ends_gives_its_files_back(
    jobs: DatabaseJobs, clock: Clock
) -> None:
    await jobs.add("ann", "docs", [new("bad"), new("good")])
    assert await taken(jobs, "killed", 1) == ["bad"]
    clock.now += 16
    assert await taken(jobs, "v", 2) == ["good", "bad"]
    await jobs.release("v")
    again = [await jobs.claim("x"), await jobs.claim("x")]
    assert [(claim.name, claim.attempts) for claim in again if claim] == [("good", 1), ("bad", 2)]
    assert again[0] is not None and await jobs.give_back(again[0], 60)
    assert await jobs.claim("x") is None
    clock.now += 61
    assert again[1] is not None
    await jobs.renew("x", [again[1].id])
    assert await taken(jobs, "x", 2) == ["good"]


async def test_a_clock_that_is_set_back_keeps_no_file_waiting(jobs: DatabaseJobs, clock: Clock) -> None:
    await jobs.add("ann", "docs", [new("a")])
    assert await taken(jobs, "one", 1) == ["a"]
    clock.now -= 3600
    assert await taken(jobs, "two", 1) == ["a"]


async def test_progress_never_goes_back_and_a_job_is_only_its_tenants(jobs: DatabaseJobs, clock: Clock) -> None:
    job = await jobs.add("ann", "docs", [new("a"), new("b")])
    claim = await jobs.claim("w")
    assert claim is not None
    assert await jobs.note(claim, 3, 9, 5, 60) and await jobs.note(claim, 1, 2, 1, 10)
    state = await jobs.job("ann", job)
    assert (state.status, state.percent, state.files[0].embedded, state.created) == ("running", 30, 5, 10_000.0)
    with pytest.raises(NotFound):
        await jobs.job("bob", job)
    clock.now += 5
    assert await jobs.finish(claim, 3, 9, ["blank"])
    done = (await jobs.job("ann", job)).files[0]
    assert (done.status, done.warnings, done.started, done.finished) == ("done", ("blank",), 10_000.0, 10_005.0)
    assert await jobs.open_files("ann", "docs") == 1
    assert await jobs.cancel("ann", "docs", Conflict("gone")) == ["spooled b"]
    state = await jobs.job("ann", job)
    assert state.status == "failed" and state.files[1].error is not None and state.files[1].error["code"] == "CONFLICT"


async def test_finished_jobs_are_forgotten_after_a_while(jobs: DatabaseJobs, clock: Clock) -> None:
    done, waiting = await jobs.add("ann", "docs", [new("a")]), await jobs.add("ann", "docs", [new("b")])
    claim = await jobs.claim("w")
    assert claim is not None and await jobs.finish(claim, 0, 1)
    assert await jobs.forget() == {"spooled b"} and (await jobs.job("ann", done)).finished
    clock.now += 8 * 86400
    assert await jobs.forget() == {"spooled b"}
    with pytest.raises(NotFound):
        await jobs.job("ann", done)
    assert (await jobs.job("ann", waiting)).status == "queued"
    clock.now += 70 * 86400
    assert await jobs.forget() == set(), "nobody is at it any more"


async def test_what_is_old_goes_in_parts_and_all_of_it(
    jobs: DatabaseJobs, uploads: DatabaseUploads, queue: QueueDatabase, clock: Clock
) -> None:
    async def add(on: JobStatements) -> None:
        for number in range(JOBS_AT_ONCE + 3):
            await on.add({"id": str(number), "tenant": "ann", "collection": "docs", "created": clock.now}, [])
        for number in range(PARTS_AT_ONCE + 4):
            await on.keep_part("orphan", number, b"part")

    async def parts(on: JobStatements) -> list[int]:
        return [number for number in range(PARTS_AT_ONCE + 4) if await on.part("orphan", number)]

    await queue(add)
    clock.now += 8 * DAY
    assert await queue(lambda on: on.forget(7 * DAY, 2)) == 2
    assert await queue(lambda on: on.sweep_uploads(3600, 3)) == 3 and len(await queue(parts)) == PARTS_AT_ONCE + 1
    await uploads.sweep(await jobs.forget())
    assert await queue(lambda on: on.forget(0, 9)) == 0 and await queue(parts) == []


async def test_what_others_left_in_queues_that_are_there_no_more_goes_too(
    database: Database, jobs: DatabaseJobs, queue: QueueDatabase, clock: Clock, tmp_path: Path
) -> None:
    await queue(lambda on: on.keep_part("orphan", 0, b"part"))
    job = await jobs.add("ann", "docs", [new("a")])
    elsewhere = QueueDatabase(database, Identity("s3://other"), clock)
    other = DatabaseJobs(elsewhere, Limits(job_days=0), LocalUploads(Spool(tmp_path, 9)), tmp_path / "none")
    clock.now += 9 * DAY
    await other.forget()
    assert await queue(lambda on: on.part("orphan", 0)) and (await jobs.job("ann", job)).status == "queued"
    clock.now += 2 * DAY
    await other.forget()
    assert await queue(lambda on: on.part("orphan", 0)) is None
    with pytest.raises(NotFound):
        await jobs.job("ann", job)


async def test_tidying_begins_again_after_a_failure_and_repeats(
    jobs: DatabaseJobs, uploads: DatabaseUploads, queue: QueueDatabase, clock: Clock
) -> None:
    class Failing(DatabaseUploads):
        troubles: ClassVar = [RuntimeError("a mistake"), StoreUnavailable()]

        async def sweep(self, known: Set[str]) -> None:
            if self.troubles:
                raise self.troubles.pop()
            await super().sweep(known)

    housekeeping = Housekeeping(jobs, Failing(uploads.spool, queue), 0.001)
    housekeeping.start()
    async with asyncio.timeout(60):
        for name in ("first", "second"):
            await queue(lambda on, name=name: on.keep_part(name, 0, b"part"))  # type: ignore[misc]
            clock.now += 2 * 3600
            while await queue(lambda on, name=name: on.part(name, 0)):  # type: ignore[misc] # noqa: ASYNC110
                await asyncio.sleep(0.001)
    await housekeeping.aclose()


def test_a_copy_of_what_is_being_ingested_is_no_orphan(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 9)
    for name in ("open-copy", "open", "closed-copy", "closed"):
        spool.path(name).write_bytes(b"")
        os.utime(spool.path(name), (0, 0))
    spool.sweep({"open"})
    assert {path.name for path in tmp_path.iterdir()} == {"open", "open-copy"}


@pytest.mark.skipif(bool(missing_requirements()), reason="needs requirements-local.txt")
async def test_a_queue_that_cannot_be_opened_for_any_reason_is_said_and_takes_no_documents(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    database = Database(postgres.create("unopened"), tmp_path, 60.0)
    await database.start()
    before = JobTable(tmp_path / "jobs.sqlite3", LIMITS)
    before.add("ann", "docs", [new("a")])
    before.close()
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as later:
        later.execute("ALTER TABLE jobs ADD COLUMN of_a_later_version TEXT")
    library = Library(tmp_path, WordEmbedder(), limits=LIMITS, database=database)
    assert library.readiness().state == "ready"
    await library.start()
    async with asyncio.timeout(60):
        while library.readiness().state == "ready":  # noqa: ASYNC110 - it tells no one
            await asyncio.sleep(0.005)
    assert library.readiness().state == "failed" and "The queue of documents" in library.readiness().reason
    with pytest.raises(ModelUnavailable, match="queue of documents"):
        await library.submit("ann", "docs", [Upload("b", b"text")])
    await library.aclose()
    await database.aclose()


async def test_those_who_ask_at_the_same_time_get_different_files_and_limits_are_exact(
    queue: QueueDatabase, uploads: DatabaseUploads, tmp_path: Path
) -> None:
    jobs = DatabaseJobs(queue, Limits(queued_files=40), uploads, tmp_path / "none")
    added = await asyncio.gather(
        *(jobs.add("ann", "docs", [new(str(number))]) for number in range(30)), return_exceptions=True
    )
    refused = [one for one in added if isinstance(one, Overloaded)]
    assert (len(refused), len([one for one in added if isinstance(one, str)])) == (10, 20)
    claims = await asyncio.gather(*(jobs.claim(f"w{number % 5}") for number in range(30)))
    names = [claim.name for claim in claims if claim is not None]
    while claim := await jobs.claim("last"):
        names.append(claim.name)
    assert len(names) == len(set(names)) == 20


async def test_queues_of_other_stores_are_apart(
    database: Database, jobs: DatabaseJobs, uploads: DatabaseUploads, tmp_path: Path
) -> None:
    job = await jobs.add("ann", "docs", [new("a")])
    elsewhere = QueueDatabase(database, Identity(str(tmp_path / "rag")))
    other = DatabaseJobs(elsewhere, LIMITS, LocalUploads(uploads.spool), tmp_path / "none")
    assert await other.claim("w") is None and await other.forget() == set()
    with pytest.raises(NotFound):
        await other.job("ann", job)
    # a folder has one name for all that share it, and a store of objects has one by its address
    assert await Identity(str(tmp_path / "rag")).name() == await Identity(str(tmp_path / "rag")).name()
    assert await Identity(STORE).name() == await Identity(STORE + "/").name() != await Identity("s3://other").name()


async def test_uploads_are_found_by_every_machine_until_they_are_ingested(
    uploads: DatabaseUploads, queue: QueueDatabase, jobs: DatabaseJobs, clock: Clock, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 12_000
    spooled, _, size = uploads.spool.write("a", content)
    orphan, _, _ = uploads.spool.write("b", b"never submitted")
    await uploads.keep([spooled, orphan])
    assert not list((tmp_path / "spool").iterdir()), "nothing is left on the machine that took it in"
    await jobs.add("ann", "docs", [NewFile("a", "0" * 64, {}, size, spooled)])
    other = DatabaseUploads(Spool(tmp_path / "other", 2**23), queue)
    async with other.opened(spooled) as path:
        assert path.read_bytes() == content
    assert not list((tmp_path / "other").iterdir())
    clock.now += 2 * 3600
    await other.sweep(await jobs.forget())
    with pytest.raises(InternalError, match="upload"):
        async with other.opened(orphan):
            pass
    async with uploads.opened(spooled) as path:
        assert path.stat().st_size == size
    await other.remove(spooled)
    with pytest.raises(InternalError):
        async with uploads.opened(spooled):
            pass


async def test_an_upload_goes_at_once_with_the_end_of_its_file(
    jobs: DatabaseJobs, uploads: DatabaseUploads, queue: QueueDatabase, clock: Clock
) -> None:
    """A worker that is killed right behind it leaves nothing."""

    async def part_of(name: str) -> bytes | None:
        return await queue(lambda rows: rows.part(f"spooled {name}", 0))

    async def keep(name: str) -> None:
        await queue(lambda rows: rows.keep_part(f"spooled {name}", 0, b"text"))

    await keep("a")
    await keep("b")
    await jobs.add("ann", "docs", [new("a"), new("b")])
    lost = await jobs.claim("one")
    clock.now += 16
    first, second = await jobs.claim("two"), await jobs.claim("two")
    assert lost is not None and first is not None and second is not None
    assert not await jobs.finish(lost, 1, 1) and not await jobs.fail(lost, InvalidValue("no"))
    assert await part_of(first.name) is not None
    assert await jobs.finish(first, 1, 1)
    assert await part_of(first.name) is None and await part_of(second.name) is not None
    assert await jobs.fail(second, InvalidValue("no"))
    assert await part_of(second.name) is None


async def test_what_waited_in_the_file_of_before_moves_once(
    jobs: DatabaseJobs, uploads: DatabaseUploads, tmp_path: Path
) -> None:
    before = JobTable(tmp_path / "jobs.sqlite3", LIMITS)
    names = [uploads.spool.write(name, name.encode())[0] for name in ("done", "held", "waits")]
    files = [NewFile(n, "0" * 64, {}, 4, s) for n, s in zip(("done", "held", "waits"), names, strict=True)]
    job = before.add("ann", "docs", files)
    claim = before.claim("w")
    assert claim is not None and before.finish(claim, 1, 1) and before.claim("w")
    before.close()
    await jobs.open()
    assert await jobs.forget() == set(names[1:])
    assert [file.status for file in (await jobs.job("ann", job)).files] == ["done", "queued", "queued"]
    async with uploads.opened(names[2]) as path:
        assert path.read_bytes() == b"waits"
    await jobs.open()
    assert await jobs.forget() == set(names[1:]), "it moves once"
    assert sorted(await taken(jobs, "w", 9)) == ["held", "waits"]


async def test_one_at_a_time_is_alone_among_machines(postgres: PostgresServer, tmp_path: Path) -> None:
    url = create_migrated(postgres, "alone")
    machines = [Database(url, tmp_path, 60.0) for _ in range(2)]
    for machine in machines:
        await machine.start()
        assert await machine.ready(60)
    inside = most = entered = 0

    async def write(machine: Database) -> None:
        nonlocal inside, most, entered
        async with machine.alone("docs"):
            inside, entered = inside + 1, entered + 1
            most = max(most, inside)
            await asyncio.sleep(0.005)
            inside -= 1

    await asyncio.gather(*(write(machine) for machine in machines * 4))
    assert (most, entered) == (1, 8)
    async with machines[0].alone("docs"):
        # another collection's lock is another one
        async with machines[1].alone("other"):
            pass
        waiting = asyncio.create_task(write(machines[1]))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        # the holder's machine is gone: its connection ends, and with it the lock
        ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        assert postgres.psql(ended, "alone").strip() == "1"
        await waiting
    assert await machines[0].read(lambda connection: connection.scalar(text("SELECT 1"))) == 1
    for machine in machines:
        await machine.aclose()
