"""kill -9 anywhere: nothing that was acknowledged is lost, nothing is there twice, no passage is an orphan.

RAG_KILLS sets how often one folder's process is killed.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import lancedb
import pytest

from apps.rag.jobs import JobTable
from apps.rag.library import Library
from apps.rag.records import tenant_folder
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.ingesting_process import LIMITS, NAMES, document

pytestmark = [pytest.mark.local, pytest.mark.long]

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("RAG_KILLS", "20"))


def run_and_kill(folder: Path, first: int, seconds: float) -> tuple[int, int]:
    """Lets it work for so long; the numbers of the last document that was tried and of the last acknowledged one."""
    command = [sys.executable, "-m", "apps.rag.tests.ingesting_process", str(folder), str(first)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        process.kill()
        lines = process.stdout.read().splitlines()
    told = [line.split() for line in lines if line.count(" ") == 1]
    tried = [int(number) for word, number in told if word == "try"]
    acknowledged = [int(number) for word, number in told if word == "ack"]
    return max(tried, default=first - 1), max(acknowledged, default=first - 1)


async def test_kill_9_at_random_points_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    chance = random.Random(6)
    tried = acknowledged = -1
    open_ends: set[int] = set()
    for _ in range(KILLS):
        tried, acknowledged = await asyncio.to_thread(
            run_and_kill, tmp_path, tried + 1, chance.choice([0.1, 0.5, 1.0, 1.5, 2.0]) * (0.5 + chance.random())
        )
        open_ends |= {tried} - {acknowledged}
    assert tried > KILLS, "the process did work between the kills"
    library = Library(tmp_path, HashingEmbedder(), limits=LIMITS)
    await library.start()
    table = JobTable(tmp_path / "jobs.sqlite3", LIMITS)
    async with asyncio.timeout(60):
        while table.open_spooled():  # noqa: ASYNC110 - a table of another process sets no event
            await asyncio.sleep(0.1)
    await library.aclose()
    failed = table._db.execute("SELECT error FROM files WHERE status = 'failed'").fetchall()
    assert [tuple(row) for row in failed] == []
    table.close()
    print(f"{KILLS} kills, {tried + 1} documents, {len(open_ends)} of them not acknowledged")
    await check(tmp_path, expected(tried, open_ends))


def expected(tried: int, open_ends: set[int]) -> dict[str, set[bytes]]:
    """What each name may hold: its last document that was acknowledged, or a later one that was only tried."""
    allowed: dict[str, set[bytes]] = {}
    for number in range(tried + 1):
        name, content = document(number)
        if number in open_ends:
            allowed.setdefault(name, set()).add(content)
        else:
            allowed[name] = {content}
    return allowed


async def check(folder: Path, allowed: dict[str, set[bytes]]) -> None:
    connection = await lancedb.connect_async(str(folder / "index" / tenant_folder("ann")))
    table = await connection.open_table("c-docs")
    rows = await table.query().select(["id", "document", "ordinal", "names", "passages", "bytes"]).to_list()
    assert max(Counter(row["id"] for row in rows).values()) == 1, "no passage is there twice"
    by_document: dict[str, list[int]] = {}
    for row in rows:
        by_document.setdefault(row["document"], []).append(row["ordinal"])
    for row in rows:
        assert sorted(by_document[row["document"]]) == list(range(row["passages"])), (
            "no part is missing, none is left over"
        )
    held = {name: row["document"] for row in rows for name in row["names"]}
    assert len({(name, row["document"]) for row in rows for name in row["names"]}) == len(held), "one version a name"
    assert set(held) == set(allowed) and len(held) == NAMES
    for name, digest in held.items():
        assert digest in {sha256(content).hexdigest() for content in allowed[name]}, name
