"""The stores: bounded in bytes, forgetful in time, and the one on disk whole after a restart."""

import asyncio
import os
import pickle
import random
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apps.cache.store import FILE, OVERHEAD, DiskStore, GuardedStore, MemoryStore, RemoteStore, Store, StoreError
from apps.tests.support.waiting import Passed

MOST = 100_000


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture(params=["memory", "disk"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MemoryStore | DiskStore]:
    made = MemoryStore(MOST) if request.param == "memory" else DiskStore(tmp_path / "cache", MOST)
    await made.start()
    yield made
    await made.aclose()


async def test_the_bound_in_bytes_holds_under_load(store: MemoryStore | DiskStore) -> None:
    chance = random.Random(7)

    async def load(worker: int) -> None:
        for number in range(150):
            await store.set(key(worker * 1000 + number), chance.randbytes(chance.randrange(0, 9000)), 60)
            assert store.size <= MOST

    await asyncio.gather(*(load(worker) for worker in range(4)))
    kept = [value for number in range(4000) if (value := await store.get(key(number))) is not None]
    assert sum(len(value) + OVERHEAD for value in kept) == store.size
    assert store.size > MOST - 10_000


async def test_what_was_used_last_stays(store: MemoryStore | DiskStore) -> None:
    for number in range(3):
        await store.set(key(number), bytes(30_000), 60)
        await asyncio.sleep(0.01)
    if isinstance(store, MemoryStore):
        await store.get(key(0))
    await store.set(key(9), bytes(30_000), 60)
    gone = key(1) if isinstance(store, MemoryStore) else key(0)
    assert await store.get(gone) is None
    assert await store.get(key(2)) is not None


async def test_what_is_larger_than_the_bound_is_not_kept(store: MemoryStore | DiskStore) -> None:
    await store.set(key(1), b"small", 60)
    await store.set(key(2), bytes(MOST), 60)
    assert await store.get(key(1)) == b"small"
    assert await store.get(key(2)) is None


async def test_an_entry_is_forgotten_in_time(store: Store) -> None:
    await store.set(key(1), b"short", 0.01)
    await store.set(key(2), b"long", 600)
    await asyncio.sleep(0.02)
    assert await store.get(key(1)) is None
    assert await store.get(key(2)) == b"long"


async def test_an_entry_is_replaced_and_counted_once(store: MemoryStore | DiskStore) -> None:
    await store.set(key(1), bytes(500), 60)
    await store.set(key(1), b"new", 60)
    assert await store.get(key(1)) == b"new"
    assert store.size == 3 + OVERHEAD


async def test_the_disk_remembers_after_a_restart_and_takes_a_smaller_bound(tmp_path: Path) -> None:
    first = DiskStore(tmp_path / "deep" / "cache", MOST)
    await first.start()
    for number in range(10):
        await first.set(key(number), bytes([number]) * 2000, 60)
    await first.aclose()
    second = DiskStore(tmp_path / "deep" / "cache", 3 * (2000 + OVERHEAD))
    await second.start()
    assert second.size == 3 * (2000 + OVERHEAD)
    assert await second.get(key(9)) == bytes([9]) * 2000
    assert await second.get(key(0)) is None
    await second.aclose()


async def test_nobody_else_on_the_machine_reads_the_disks_file(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "cache", MOST)
    await store.start()
    await store.set(key(1), b"x", 60)
    for path in [tmp_path / "cache", *(tmp_path / "cache").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    await store.aclose()


async def test_processes_on_one_file_answer_from_memory_and_never_what_another_has_replaced(tmp_path: Path) -> None:
    one, two = DiskStore(tmp_path / "cache", MOST), DiskStore(tmp_path / "cache", MOST)
    await one.start()
    await two.start()
    await one.set(key(1), b"first", 60)
    assert [await store.get(key(1)) for store in (one, two, one, two)] == [b"first"] * 4
    for number in range(20):
        writer, reader = (one, two) if number % 2 else (two, one)
        await writer.set(key(1), b"%d" % number, 60)
        assert await reader.get(key(1)) == await writer.get(key(1)) == b"%d" % number
    with sqlite3.connect(tmp_path / "cache" / FILE) as file:
        file.execute("DELETE FROM answers")
    file.close()
    assert await one.get(key(1)) is None and await two.get(key(1)) is None
    await one.aclose()
    await two.aclose()
    with pytest.raises(StoreError):
        await one.get(key(1))


async def test_what_the_disk_has_given_is_not_asked_for_again_until_somebody_writes(tmp_path: Path) -> None:
    class Counting(DiskStore):
        reads = 0

        def _get(self, key: bytes) -> tuple[bytes, float] | None:
            self.reads += 1
            return super()._get(key)

    store = Counting(tmp_path / "cache", MOST)
    await store.start()
    await store.set(key(1), b"x", 60)
    assert [await store.get(key(1)) for _ in range(9)] == [b"x"] * 9 and store.reads <= 2
    before = store.reads
    await store.set(key(2), b"y", 60)
    assert [await store.get(key(1)) for _ in range(9)] == [b"x"] * 9 and before < store.reads <= before + 2
    await store.aclose()


class Bomb:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.folder),))


async def test_a_pickle_in_the_disks_file_is_bytes_and_not_executed(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "cache", MOST)
    await store.start()
    bomb = pickle.dumps(Bomb(tmp_path / "executed"))
    await store.set(key(1), b"x", 60)
    with sqlite3.connect(tmp_path / "cache" / FILE) as file:
        file.execute("UPDATE answers SET value = ?", (bomb,))
    file.close()
    assert await store.get(key(1)) == bomb
    assert not (tmp_path / "executed").exists()
    await store.aclose()


async def test_a_file_that_is_no_database_is_a_store_that_fails(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    store = DiskStore(tmp_path, MOST)
    with pytest.raises(StoreError):
        await store.start()
    with pytest.raises(StoreError):
        await store.get(key(1))
    await store.aclose()


class Flaky:
    """A store in memory that can be made to fail or to fall silent."""

    def __init__(self) -> None:
        self.memory = MemoryStore(MOST)
        self.fails = self.mute = False
        self.asked = 0

    async def _trouble(self) -> None:
        self.asked += 1
        if self.fails:
            raise StoreError("gone")
        if self.mute:
            await asyncio.Event().wait()

    async def start(self) -> None:
        await self._trouble()

    async def ping(self) -> None:
        await self._trouble()

    async def get(self, key: bytes) -> bytes | None:
        await self._trouble()
        return await self.memory.get(key)

    async def set(self, key: bytes, value: bytes, ttl: float) -> None:
        await self._trouble()
        await self.memory.set(key, value, ttl)

    async def aclose(self) -> None:
        await self._trouble()


async def comes_back(store: GuardedStore) -> bool:
    for _ in range(200):
        if not store.broken:
            return True
        await asyncio.sleep(0.01)
    return False


def guard(store: RemoteStore) -> GuardedStore:
    return GuardedStore(store, "a test", longest=0.1)


async def test_a_muted_store_delays_one_look_and_comes_back_by_itself() -> None:
    flaky = Flaky()
    store = guard(flaky)
    await store.set(key(1), b"x", 60)
    flaky.mute = True
    waited = Passed(0.09)
    assert await store.get(key(1)) is None
    assert waited
    for _ in range(19):
        assert await store.get(key(1)) is None
    assert (store.failures, store.skipped, store.broken) == (1, 19, True)
    flaky.mute = False
    assert await comes_back(store)
    assert await store.get(key(1)) == b"x"
    await store.aclose()


async def test_a_look_does_not_begin_to_wait_where_another_waits_already() -> None:
    flaky = Flaky()
    store = guard(flaky)
    flaky.mute = True
    first = asyncio.create_task(store.get(key(1)))
    await asyncio.sleep(0.06)
    assert await store.get(key(2)) is None
    assert not first.done()
    assert await first is None
    flaky.mute = False
    await store.aclose()


async def test_while_it_is_broken_no_call_asks_it() -> None:
    flaky = Flaky()
    store = guard(flaky)
    flaky.fails = True
    await store.set(key(1), b"x", 60)
    asked = flaky.asked
    for _ in range(100):
        await store.set(key(1), b"x", 60)
        assert await store.get(key(1)) is None
    assert flaky.asked == asked
    assert store.skipped == 200
    flaky.fails = False
    await store.aclose()


async def test_one_that_is_not_there_at_the_start_is_let_in_later() -> None:
    flaky = Flaky()
    flaky.fails = True
    store = guard(flaky)
    await store.start()
    assert store.broken
    flaky.fails = False
    assert await comes_back(store)
    await store.aclose()
