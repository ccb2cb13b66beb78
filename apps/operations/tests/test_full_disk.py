"""The database on a disk that is full or read-only: errors of the tree, nothing half-written, recovery by itself."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from apps.core.agent_runs import AgentRun
from apps.core.errors import StoreUnavailable
from apps.operations.agent_runs import AgentRuns
from apps.operations.database import Database
from apps.tests.support.small_disk import fill, set_writable, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 3) as place:
        yield place


@pytest.fixture
async def database(disk: Path) -> AsyncIterator[Database]:
    opened = Database("", disk, 60.0)
    await opened.start()
    yield opened
    await opened.aclose()


def left_on(disk: Path) -> list[Path]:
    return list(disk.iterdir())


def a_run() -> AgentRun:
    return AgentRun("tenant", "key", "calc", ends_by=time.time() + 300)


async def test_runs_on_a_full_disk_are_whole_or_not_there(
    disk: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    assert await database.ready(60)
    runs, kept, new = AgentRuns(database), a_run(), a_run()
    await runs.add(kept)
    ballast = fill(disk)
    ended = AgentRun("tenant", "key", "calc", kept.ends_by, id=kept.id, begun_at=kept.begun_at)
    ended.status, ended.steps = "done", [{"kind": "tool", "result": "x" * 200_000}]
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await runs.save(ended)
        # reads go on, and show what there was
        assert await runs.get("tenant", kept.id) == kept
    new.steps = ended.steps
    with pytest.raises(StoreUnavailable):
        await runs.add(new)
    assert await runs.get("tenant", new.id) is None
    assert caplog.text.count("The database cannot be used: the disk takes nothing (SQLITE_FULL)") == 1
    assert "answers again" not in caplog.text
    ballast.unlink()
    assert await runs.save(ended)
    await runs.add(new)
    assert [await runs.get("tenant", run.id) for run in (ended, new)] == [ended, new]


async def test_a_disk_that_is_read_only_at_the_start_is_used_when_it_can_be_written(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_writable(disk, False)
    database = Database("", disk, 0.1)
    await database.start()
    try:
        runs, run = AgentRuns(database), a_run()
        assert not await database.ready(0.2)
        assert "The database cannot be used: OSError" in caplog.text
        assert left_on(disk) == []
        set_writable(disk, True)
        assert await database.ready(60)
        await runs.add(run)
        assert await runs.get("tenant", run.id) == run
    finally:
        await database.aclose()
