"""Databases that are migrated already, which take a tenth of the time: copies of one that the migrations have made.

A copy on PostgreSQL is 300 files. Tests borrow one after the other, so that a few serve them all: each gets it with
the rows of a new one. Rows of earlier tests lie on the disk until the end, where secrets are looked for.
"""

import asyncio
import secrets
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import asyncpg

from apps.operations.database import Database
from apps.tests.support.postgres_server import PostgresServer
from apps.tests.support.waiting import HANG_SECONDS

T = TypeVar("T")
FILE = "genai.db"
TEMPLATE = "migrated"
# connections of the test before, and its rows; those that the migrations made are put back
RENEW = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE name text;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('DELETE FROM public.%1$I', name);
        EXECUTE format('INSERT INTO public.%1$I SELECT * FROM migrated.%1$I', name);
    END LOOP;
    FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER SEQUENCE public.%I RESTART', name);
    END LOOP;
END $$
"""
SHAPE = """
SELECT string_agg(concat_ws(' ', relname, attname, atttypid, attnotnull), ',' ORDER BY relname, attnum)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') AND attnum > 0
"""
KEEP = f"""
CREATE SCHEMA migrated;
CREATE TABLE migrated.own_shape AS SELECT ({SHAPE}) AS shape;
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('CREATE TABLE migrated.%1$I AS TABLE public.%1$I', name);
    END LOOP;
END $$
"""  # noqa: S608
_LENT: dict[int, list[str]] = {}


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


@contextmanager
def borrowed(server: PostgresServer) -> Iterator[str]:
    """The URL of a migrated database with the rows of a new one; another test has it afterwards."""
    server.resume()
    free = _LENT.setdefault(id(server), [])
    while free:
        url = free.pop()
        if _run(_renewed(url)):
            break
    else:
        url = create_migrated(server, f"lent_{secrets.token_hex(4)}")
        _run(_keep(url))
    yield url
    free.append(url)


async def _keep(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(KEEP)
    await connection.close()


async def _renewed(url: str) -> bool:
    """Put a database in order; whether it could be: a test may have changed its tables."""
    connection = await asyncpg.connect(url)
    as_it_was = await connection.fetchval(f"SELECT shape = ({SHAPE}) FROM migrated.own_shape")  # noqa: S608
    if as_it_was:
        await connection.execute(RENEW)
    await connection.close()
    return bool(as_it_was)


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


def _run(work: Coroutine[None, None, T]) -> T:
    """In a thread, since a test's event loop may run in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
