"""Group commit: writes that wait for SQLite share a transaction, and each has its own result."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, select

from apps.core.errors import StoreUnavailable
from apps.operations.database import Database
from apps.operations.group_commit import GroupCommit
from apps.operations.ledger_rows import Charge
from apps.operations.ledger_store import LedgerStatements
from apps.operations.tables import reservations
from apps.tests.support.accounts import BILLION, books


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database("", tmp_path, 60.0)
    await opened.start()
    assert await opened.ready(60)
    yield opened
    await opened.aclose()


@pytest.fixture
def commits() -> Iterator[list[object]]:
    seen: list[object] = []

    def count(connection: object) -> None:
        seen.append(connection)

    event.listen(Engine, "commit", count)
    yield seen
    event.remove(Engine, "commit", count)


def taking(id: str, limit: int = 10 * BILLION) -> Any:
    charge = Charge("k", "2026-11", BILLION)
    return lambda connection: LedgerStatements(connection).reserve(id, charge, limit, time.time() + 60)


async def test_a_hundred_reservations_at_once_take_two_transactions_and_are_exact(
    sqlite: Database, commits: list[object]
) -> None:
    over = await asyncio.gather(*(sqlite.write_together(taking(f"c{i}")) for i in range(100)))
    # the limit is ten, and the first ten have it: in the order of arrival
    assert over[:10] == [None] * 10
    assert set(over[10:]) == {(0, 10 * BILLION)}
    assert len(commits) <= 2
    commits.clear()
    for i in range(3):
        await sqlite.write_together(taking(f"d{i}"))
    assert len(commits) == 3
    after = await books(sqlite)
    assert (after.reserved, after.reservations) == (10 * BILLION, 10)


async def test_a_work_that_fails_fails_its_own_caller_alone(sqlite: Database) -> None:
    row = {"id": "c0", "key_id": "k", "period": "p", "amount": 1, "expires_at": 0.0}

    async def again(connection: Any) -> None:
        await connection.execute(insert(reservations).values(**row))

    works = [taking("c0"), again, taking("c1")]
    results = await asyncio.gather(*map(sqlite.write_together, works), return_exceptions=True)
    assert [results[0], results[2]] == [None, None]
    assert type(results[1]).__name__ == "IntegrityError"
    kept = await sqlite.read(lambda connection: connection.execute(select(reservations.c.id)))
    assert sorted(kept.scalars()) == ["c0", "c1"]


async def test_one_that_is_cancelled_before_its_turn_is_not_run() -> None:
    ran: list[str] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def transact(work: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await work(None)

    async def noting(name: str) -> str:
        ran.append(name)
        return name

    group = GroupCommit(transact)
    kept = asyncio.create_task(group.run(lambda _: noting("kept")))
    left = asyncio.create_task(group.run(lambda _: noting("left")))
    await begun.wait()
    left.cancel()
    await asyncio.wait({left})
    go_on.set()
    assert await kept == "kept"
    assert ran == ["kept"]
    await group.aclose()


async def test_what_waits_is_refused_where_the_database_is_away_or_closed() -> None:
    async def away(work: Any) -> Any:
        raise StoreUnavailable

    async def nothing(connection: Any) -> None:
        raise AssertionError

    group = GroupCommit(away)
    results = await asyncio.gather(*(group.run(nothing) for _ in range(3)), return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}

    async def never(work: Any) -> Any:
        await asyncio.Event().wait()

    group = GroupCommit(never)
    waiting = asyncio.create_task(group.run(nothing))
    await asyncio.sleep(0)
    await group.aclose()
    with pytest.raises(StoreUnavailable):
        await waiting
    with pytest.raises(StoreUnavailable):
        await group.run(nothing)


async def test_what_cannot_even_begin_refuses_all_that_waits_once() -> None:
    tries: list[object] = []

    async def transact(work: object) -> Any:
        tries.append(work)
        raise RuntimeError("no transaction")

    group = GroupCommit(transact)
    results = await asyncio.gather(*(group.run(taking(f"c{i}")) for i in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    assert len(tries) == 1
    await group.aclose()
