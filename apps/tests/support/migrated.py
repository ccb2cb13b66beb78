"""Databases that are migrated already: copies of one that the migrations have made, which take a tenth of the time."""

import asyncio
import tempfile
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from apps.operations.database import Database
from apps.tests.support.postgres_server import PostgresServer
from apps.tests.support.waiting import HANG_SECONDS

FILE = "genai.db"
TEMPLATE = "migrated"


def lay_sqlite(data_dir: Path) -> None:
    """Put a migrated database where the service looks for its own, which is its owner's alone."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = data_dir / FILE
    file.touch(mode=0o600)
    file.write_bytes(_sqlite())


def create_migrated(server: PostgresServer, name: str) -> str:
    """A new, migrated database of the server; returns its URL."""
    if TEMPLATE not in server.made_by:
        _run(_migrate(server.create(TEMPLATE), Path()))
    return server.create(name, TEMPLATE)


@cache
def _sqlite() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        _run(_migrate("", Path(folder)))
        return Path(folder, FILE).read_bytes()


async def _migrate(url: str, folder: Path) -> None:
    database = Database(url, folder, HANG_SECONDS)
    await database.start()
    assert await database.ready(HANG_SECONDS)
    await database.aclose()


def _run(work: Coroutine[None, None, None]) -> None:
    """In a thread, since a test's event loop may run in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()
