"""A PostgreSQL a session, and an empty database of each kind a test."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from apps.operations.database import Database
from apps.tests.support.postgres_server import PROGRAMS, PostgresServer, postgres_server

KINDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if PROGRAMS is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgres_server() as server:
        yield server


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    """What DATABASE_URL would be: empty for SQLite in `tmp_path`."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create(f"test_{secrets.token_hex(4)}")


@pytest.fixture
async def database(url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """Open and migrated."""
    opened = Database(url, tmp_path, 60.0)
    await opened.start()
    assert await opened.ready(60)
    yield opened
    await opened.aclose()
