"""An empty database of each kind a test."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from apps.operations.database import Database
from apps.tests.support.migrated import borrowed, lay_sqlite
from apps.tests.support.postgres_server import PostgresServer

KINDS = ("sqlite", "postgresql")


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest) -> str:
    """What DATABASE_URL would be: empty for SQLite in `tmp_path`."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create(f"test_{secrets.token_hex(4)}")


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The same of a database that is migrated."""
    if request.param == "sqlite":
        lay_sqlite(tmp_path)
        yield ""
    else:
        with borrowed(request.getfixturevalue("postgres")) as lent:
            yield lent


@pytest.fixture
async def database(url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """Open."""
    opened = Database(url, tmp_path, 60.0)
    await opened.start()
    assert await opened.ready(60)
    yield opened
    await opened.aclose()
