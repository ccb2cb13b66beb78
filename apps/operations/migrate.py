"""Brings a database to the tables of this version, or back. Safe where several processes start at the same time."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

FOLDER = Path(__file__).parent / "migrations"
LOCK = 7_305_001  # of PostgreSQL's advisory locks, any number that is ours alone


def latest_revision() -> str:
    """The last of the numbered files, read without alembic, which most starts do not need."""
    return max(file.name.partition("_")[0] for file in (FOLDER / "versions").glob("[0-9]*_*.py"))


async def is_up_to_date(connection: AsyncConnection) -> bool:
    return await connection.run_sync(_revision) == latest_revision()


async def migrate(engine: AsyncEngine, revision: str = "head") -> None:
    """Upgrade, or downgrade to ``base`` or an earlier revision, in one transaction and under a lock."""
    async with engine.connect() as connection:
        connection = await connection.execution_options(write=True)
        async with connection.begin():
            if engine.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            await connection.run_sync(_run, revision)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _run(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    current = _revision(connection)
    if revision == "head" or current is None or (revision != "base" and revision > current):
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)
