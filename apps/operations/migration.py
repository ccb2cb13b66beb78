"""Migrates a database by alembic. Imported where there is something to migrate."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from apps.operations.engines import revision_of

FOLDER = Path(__file__).parent / "migrations"
LOCK = 7_305_001  # of PostgreSQL's advisory locks, any number that is ours alone


async def migrate(engine: AsyncEngine, revision: str = "head") -> None:
    """Upgrade, or downgrade to ``base`` or an earlier revision, in one transaction and under a lock."""
    async with engine.connect() as connection:
        connection = await connection.execution_options(write=True)
        async with connection.begin():
            if engine.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            await connection.run_sync(_run, revision)


def _run(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    current = revision_of(connection)
    if revision == "head" or current is None or (revision != "base" and revision > current):
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)
