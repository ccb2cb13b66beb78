"""SQLAlchemy's engines for SQLite and PostgreSQL, with times on everything that could hang; and their errors.

Imported with both drivers when a database is opened, never with the app: SQLAlchemy takes as long as FastAPI.
"""

import asyncio
import hashlib
import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import aiosqlite  # noqa: F401 - the engine imports it by name: here it is imported with the rest
from asyncpg import InterfaceError, PostgresError
from sqlalchemy import URL, Connection, event, exc, inspect, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from apps.core.errors import StoreUnavailable
from apps.core.process import import_aside, import_once

if TYPE_CHECKING:
    from alembic.config import Config

FILE = "genai.db"
# of the time that a caller waits: a driver gives up a little before the database does
SHARE = 0.9
MIGRATION_SECONDS = 60.0
POOL_SIZE = 8
# statements that a connection to SQLite keeps prepared: those that write many rows take much memory
PREPARED = 32
SQLITE_ERROR = 1
# of PostgreSQL (SQL's own classes): wrong data, a violated constraint, a wrong statement
MISTAKEN_STATES = ("22", "23", "42")
LOCK_RETRY_SECONDS = 0.1
BEAT_SECONDS = 5.0
CLOSE_SECONDS = 2.0

log = logging.getLogger(__name__)


class ReleasingConnection(sqlite3.Connection):
    """Ends its transaction when it is closed.

    SQLite keeps a closed connection, and its lock on the file, as long as a statement of it is there; and one that
    belonged to a task that was cancelled is there until the garbage collector comes by.
    """

    def close(self) -> None:
        with suppress(sqlite3.Error):  # what cannot be rolled back any more is not committed either
            self.rollback()
        super().close()

    def __del__(self) -> None:
        # one that a cancelled task was still opening: from Python 3.13 on such an end is a warning
        with suppress(sqlite3.Error):
            self.close()


def open_engine(url: str, data_dir: Path, seconds: float, *, patient: bool = False) -> AsyncEngine:
    """The engine of ``url``, or of a file in ``data_dir``, which is made.

    ``seconds`` bounds connecting and each statement; ``patient`` is for migrations, whose statements may take a minute.
    """
    connect = seconds * SHARE
    statement = MIGRATION_SECONDS if patient else connect
    if not url:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        # for its owner alone; what SQLite writes beside it has the same mode
        (data_dir / FILE).touch(mode=0o600)
        return _sqlite(data_dir / FILE, statement, connect)
    return _postgresql(make_url(url), statement, connect)


def _postgresql(url: URL, statement: float, connect: float) -> AsyncEngine:
    query = dict(url.query)
    tls = query.pop("sslmode", None)
    arguments: dict[str, Any] = {
        "timeout": connect,
        "command_timeout": statement,
        "server_settings": {"statement_timeout": str(int(statement * 1000)), "application_name": "genai-project"},
    }
    if tls is not None:
        arguments["ssl"] = tls
    return create_async_engine(
        url.set(drivername="postgresql+asyncpg", query=query),
        connect_args=arguments,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=connect,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _sqlite(file: Path, statement: float, connect: float) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(file)),
        # transactions are begun below, since the driver begins them too late
        connect_args={
            "timeout": statement,
            "isolation_level": None,
            "factory": ReleasingConnection,
            "cached_statements": PREPARED,
        },
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=connect,
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        # a transaction that reads first and writes later would fail where another one wrote in between
        write = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


FOLDER = Path(__file__).parent / "migrations"
LOCK = 7_305_001  # of PostgreSQL's advisory locks, any number that is ours alone


def latest_revision() -> str:
    """The last of the numbered files, read without alembic, which most starts do not need."""
    return max(file.name.partition("_")[0] for file in (FOLDER / "versions").glob("[0-9]*_*.py"))


def revision_of(connection: Connection) -> str | None:
    """None where nothing was migrated yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


async def is_up_to_date(connection: AsyncConnection) -> bool:
    return await connection.run_sync(revision_of) == latest_revision()


def is_unavailable(error: BaseException) -> bool:
    """Whether this is the database's trouble, and not a mistake in a statement."""
    if isinstance(error, exc.DBAPIError):
        mistakes = (exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError)
        # SQLite has one class for a file that is locked and for a column that is not there; of PostgreSQL's, many of
        # the wrong values have no class of their own
        driver = error.driver_exception
        mistaken = getattr(driver, "sqlite_errorcode", None) == SQLITE_ERROR
        mistaken = mistaken or (getattr(driver, "sqlstate", None) or "")[:2] in MISTAKEN_STATES
        return error.connection_invalidated or not (mistaken or isinstance(error, mistakes))
    return isinstance(error, exc.TimeoutError | OSError | TimeoutError | PostgresError | InterfaceError)


async def migrate(engine: AsyncEngine, revision: str = "head") -> None:
    """Upgrade, or downgrade to ``base`` or an earlier revision, in one transaction and under a lock."""
    await import_aside(load_alembic)
    async with engine.connect() as connection:
        connection = await connection.execution_options(write=True)
        async with connection.begin():
            if engine.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            await connection.run_sync(_run, revision)


def _run(connection: Connection, revision: str) -> None:
    command, make_config = import_once(load_alembic)
    config = make_config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    current = revision_of(connection)
    if revision == "head" or current is None or (revision != "base" and revision > current):
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)


def load_alembic() -> tuple[ModuleType, Callable[[], "Config"]]:
    """What a database that is up to date does not need."""
    from alembic import command
    from alembic.config import Config

    return command, Config


@asynccontextmanager
async def held(engine: AsyncEngine, name: str) -> AsyncGenerator[None, None]:
    """Hold PostgreSQL's advisory lock of a name for the length of the block. Raises StoreUnavailable.

    It is a transaction's, so that it holds behind a pooler of transactions too, and ends with its connection.
    """
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
    try:
        connection = await _locked(engine, key)
    except Exception as error:
        if not is_unavailable(error):
            raise
        log.warning("A lock in the database cannot be had: %s", type(error).__name__)
        raise StoreUnavailable from None
    beating = asyncio.create_task(_keep_alive(connection))
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.wait({beating})
        closing = asyncio.ensure_future(connection.close())
        closing.add_done_callback(_note_end)
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)


async def _locked(engine: AsyncEngine, key: int) -> AsyncConnection:
    """The connection whose transaction has the lock. What waits for it keeps no connection."""
    while True:
        connection = await engine.connect()
        try:
            got = await connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key})
            if got.scalar_one():
                return connection
        except BaseException:
            await connection.close()
            raise
        await connection.close()
        await asyncio.sleep(LOCK_RETRY_SECONDS)


async def _keep_alive(connection: AsyncConnection) -> None:
    """Ask something now and then: servers end transactions that idle for long, and a lost lock is to be told of."""
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        try:
            await connection.execute(text("SELECT 1"))
        except (exc.DBAPIError, OSError) as error:
            log.error("A lock in the database was lost (%s): another machine may write too", type(error).__name__)
            return


def _note_end(closing: "asyncio.Future[None]") -> None:
    """A connection that broke has nothing to close."""
    if not closing.cancelled() and (error := closing.exception()) is not None:
        log.debug("A connection with a lock was broken: %s", type(error).__name__)
