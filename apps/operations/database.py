"""The database: opened in the background, migrated, and asked within a time that callers can rely on.

It knows no table. Work is given as a function of a connection, so that a wait can be ended whatever the driver does.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from apps.core.errors import AppError, StoreUnavailable
from apps.core.process import import_aside, import_once
from apps.core.storage import is_no_storage
from apps.operations.group_commit import GroupCommit, Work

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from apps.operations.ledger_store import Statements

    OpenEngine = Callable[..., AsyncEngine]
    IsUpToDate = Callable[[AsyncConnection], Awaitable[bool]]
    Migrate = Callable[[AsyncEngine], Awaitable[None]]

T = TypeVar("T")
MOST_SECONDS = 0.9
CLOSE_SECONDS = 2.0
HELD_UP_SECONDS = 0.1
TURNS = 40
"""So many turns of the event loop a transaction takes at most: its steps, and those of the pool."""
MOST_MORE_SECONDS = 3.0
RETRY_SECONDS = 1.0
# of the pool's connections, which requests need too
LOCKS_AT_ONCE = 3

log = logging.getLogger(__name__)


class Database:
    """PostgreSQL by ``url``; where that is empty, SQLite in ``data_dir``.

    ``read`` and ``write`` run in a transaction each and raise StoreUnavailable where it takes too long, cannot be
    reached or is not migrated yet; what violates a constraint is raised as SQLAlchemy's IntegrityError.
    """

    def __init__(self, url: str, data_dir: Path, seconds: float = MOST_SECONDS) -> None:
        self._url = url
        self._seconds = seconds
        self._data_dir = data_dir
        self._engine: AsyncEngine | None = None
        self._opened = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._group = GroupCommit(self.write)
        self._abandoned: set[asyncio.Task[object]] = set()
        self._locks = asyncio.Semaphore(LOCKS_AT_ONCE)
        self._down: Literal["", "all", "writes"] = ""

    async def start(self) -> None:
        """Begin to open and migrate it; a database that is down is tried until it is there."""
        self._opened.clear()
        self._group = GroupCommit(self.write)
        self._opening = asyncio.create_task(self._open())

    async def aclose(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        await self._group.aclose()
        # they have been cancelled, and are closing their connections: a second time aiosqlite would wait for ever
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=CLOSE_SECONDS)
        engine, self._engine = self._engine, None
        self._opened.set()  # what waited for it, and what comes after the end, is refused at once
        if engine is not None:
            await self._dispose(engine)

    async def ready(self, within: float) -> bool:
        """Wait until it has been opened; whether it was in time."""
        try:
            async with asyncio.timeout(within):
                await self._opened.wait()
        except TimeoutError:
            return False
        return self._engine is not None

    async def read(self, work: Work[T], within: float | None = None) -> T:
        """Run ``work`` in a transaction that sees one state of everything."""
        return await self._bounded(self._transact(work, write=False), within, write=False)

    async def write(self, work: Work[T], within: float | None = None) -> T:
        """Run ``work`` in a transaction, committed where it returns. On SQLite one at a time, from its beginning."""
        return await self._bounded(self._serialized(work), within, write=True)

    async def write_together(self, work: Work[T]) -> T:
        """Run ``work`` as `write` does; on SQLite in one transaction with all that waits for its turn meanwhile.

        It may be run a second time where another of its transaction failed.
        """
        return await self._bounded(self._grouped(work), None, write=True)

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncGenerator[None, None]:
        """Hold a lock of PostgreSQL for the length of the block; nobody who asks the same database has it meanwhile.

        It ends with its connection, however that ends, and cannot run out under a holder that merely sleeps. It is a
        transaction's, so that it holds behind a pooler of transactions too. On SQLite there is none: that is one
        machine's, where files have locks. Raises StoreUnavailable.
        """
        await self._opened.wait()
        engine = self._engine
        if engine is None:
            raise StoreUnavailable
        if engine.dialect.name == "sqlite":
            yield
            return
        async with self._locks, import_once(load_lock)(engine, name):
            yield

    async def _grouped(self, work: Work[T]) -> T:
        await self._opened.wait()
        if self._engine is None or self._engine.dialect.name != "sqlite":
            return await self._transact(work, write=True)
        return await self._group.run(work)

    async def _serialized(self, work: Work[T]) -> T:
        await self._opened.wait()
        if self._engine is None or self._engine.dialect.name != "sqlite":
            return await self._transact(work, write=True)
        async with self._writing:  # SQLite would poll for its lock, and not in the order of arrival
            return await self._transact(work, write=True)

    async def _transact(self, work: Work[T], *, write: bool) -> T:
        await self._opened.wait()
        engine = self._engine
        if engine is None:
            raise StoreUnavailable
        async with engine.connect() as connection:
            options: dict[str, Any] = {"write": write}
            if not write and engine.dialect.name == "postgresql":
                # its default lets each statement see what was committed before that statement
                options["isolation_level"] = "REPEATABLE READ"
            connection = await connection.execution_options(**options)
            async with connection.begin():
                return await work(connection)

    async def _bounded(self, work: Awaitable[T], given: float | None, *, write: bool) -> T:
        """The result in time. What a driver does with a silent server can take longer, and is left to itself."""
        # what needs longer than most asks for it; nothing waits less than the setting says
        within = self._seconds if given is None else max(given, self._seconds)
        task: asyncio.Task[T] = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        ends = loop.time() + within
        try:
            done, _ = await asyncio.wait({task}, timeout=within)
            if not done and loop.time() > ends + HELD_UP_SECONDS:
                # this process was held up (a large import, say), not the database: its answer may be there already
                done, _ = await asyncio.wait({task}, timeout=within)
            if not done and (more := TURNS * await _turn_seconds()) > HELD_UP_SECONDS:
                # each step of a transaction comes back by a turn of this event loop, and many calls make turns long
                done, _ = await asyncio.wait({task}, timeout=min(more, MOST_MORE_SECONDS))
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if not done:
            self._abandon(task)
            if self._opened.is_set():  # before that, opening it says what is wrong
                self._note_failure("it did not answer in time")
            raise StoreUnavailable
        try:
            result = task.result()
        except AppError:
            raise
        except Exception as error:
            if not _is_unavailable(error):
                raise
            if write and is_no_storage(error):
                # what is there can still be read
                self._note_failure(f"the disk takes nothing ({_named(error)})", "writes")
            else:
                self._note_failure(type(error).__name__)
            raise StoreUnavailable from None
        if self._down == "all" or (self._down and write):
            self._down = ""
            log.info("The database answers again")
        return result

    def _abandon(self, task: "asyncio.Task[T]") -> None:
        self._abandoned.add(task)
        task.add_done_callback(self._forget)
        task.cancel()

    def _forget(self, task: "asyncio.Task[T]") -> None:
        self._abandoned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("An abandoned transaction failed: %s", type(error).__name__)

    def _note_failure(self, reason: str, what: Literal["all", "writes"] = "all") -> None:
        """Once until it is back; a driver's own words may hold the address."""
        if not self._down:
            self._down = what
            log.error("The database cannot be used: %s", reason)

    async def _open(self) -> None:
        while True:
            try:
                self._engine = await self._migrated()
            except Exception as error:
                reason = type(error).__name__
                if not _is_unavailable(error):
                    reason = f"{reason}: {str(error).splitlines()[0]}"
                self._note_failure(reason)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._opened.set()
                return

    async def _migrated(self) -> "AsyncEngine":
        # the imports take a fifth of a second, which the event loop has better uses for
        open_engine, is_up_to_date, migrate = await import_aside(load_engines)
        await import_aside(load_statements)
        engine = open_engine(self._url, self._data_dir, self._seconds)
        try:
            async with engine.connect() as connection:
                current = await is_up_to_date(connection)
            if not current:
                patient = open_engine(self._url, self._data_dir, self._seconds, patient=True)
                try:
                    await migrate(patient)
                finally:
                    await self._dispose(patient)
        except BaseException:
            await self._dispose(engine)
            raise
        return engine

    async def _dispose(self, engine: "AsyncEngine") -> None:
        closing = asyncio.ensure_future(engine.dispose())
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if not closing.done():
            self._abandon(closing)


async def _turn_seconds() -> float:
    """How long a turn of the event loop takes now: the longest of three."""
    loop, longest = asyncio.get_running_loop(), 0.0
    for _ in range(3):
        began = loop.time()
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - began)
    return longest


def with_statements(work: "Callable[[Statements], Awaitable[T]]") -> Work[T]:
    """``work`` of a transaction, on the statements of our tables."""

    async def run(connection: "AsyncConnection") -> T:
        return await work(import_once(load_statements)(connection))

    return run


def _is_unavailable(error: BaseException) -> bool:
    from apps.operations.engines import is_unavailable

    return is_unavailable(error)


def _named(error: BaseException) -> str:
    """SQLite's name for it, which holds nothing of the statement."""
    return getattr(error.__cause__, "sqlite_errorname", None) or type(error).__name__


def load_engines() -> "tuple[OpenEngine, IsUpToDate, Migrate]":
    """SQLAlchemy and the drivers."""
    from apps.operations.engines import is_up_to_date, migrate, open_engine

    return open_engine, is_up_to_date, migrate


def load_lock() -> "Callable[[AsyncEngine, str], AbstractAsyncContextManager[None]]":
    from apps.operations.engines import held

    return held


def load_statements() -> "type[Statements]":
    from apps.operations.ledger_store import Statements

    return Statements
