"""The same with real processes that are killed: a turn is done, or it is not."""

import asyncio
import json
import random
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from apps.operations.database import Database
from apps.operations.ledger_rows import DAY, day_of
from apps.operations.tests.aged_calls import KEEPING, NOW, everything, fill, old_calls, rows

FOLDER = """
import asyncio, json, sys
from pathlib import Path
from apps.operations.database import Database
from apps.operations.ledger import Retention

async def main():
    url, folder, now, days = json.loads(sys.argv[1])
    database = Database(url, Path(folder), 60.0)
    await database.start()
    assert await database.ready(90)
    kept = Retention(database, days, batch=5, pause=0.002, rest=0, clock=lambda: now)
    print("ready", flush=True)
    await kept.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def started(url: str, folder: Path) -> Process:
    """One that has begun to fold."""
    told = json.dumps([url, str(folder), NOW, KEEPING])
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FOLDER, told, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.long
async def test_killed_in_the_middle_again_and_again_every_row_is_counted_once(url: str, tmp_path: Path) -> None:
    """Two at a time, killed by SIGKILL at random points until nothing is left to fold."""
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    database = Database(url, tmp_path, 60.0)
    await database.start()
    assert await database.ready(60)
    await fill(database, old_calls(3_000))
    before, middle = await everything(database), 0
    for _ in range(60):
        left = (await rows(database))[0]
        two = await asyncio.gather(*(started(url, tmp_path) for _ in range(2)))
        await asyncio.sleep(chance.random() * 0.2)
        for process in two:
            process.kill()
            await process.wait()
        assert await everything(database) == before
        now_left, _, oldest = await rows(database)
        if oldest >= day_of(NOW - KEEPING * DAY):
            break
        middle += now_left < left
    else:
        pytest.fail("60 pairs of processes have not come to the end")
    await database.aclose()
    assert middle >= 2, "no process was killed in the middle"
