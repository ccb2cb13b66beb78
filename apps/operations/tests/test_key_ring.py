"""The keys that a process knows: bounded, forgotten on every change, and not trusted while the database is away."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update

from apps.core.errors import NotFound, StoreUnavailable
from apps.operations.database import Database
from apps.operations.key_store import EVERY, TRUSTED_SECONDS, KeyRing, KeysState, KeyStore, StoredKey
from apps.operations.key_terms import KeyTerms
from apps.operations.tables import api_keys, key_changes
from apps.tests.marks import learn
from apps.tests.support.migrated import create_migrated
from apps.tests.support.postgres_server import PostgresServer
from apps.tests.support.waiting import HANG_SECONDS

SECRET = b"x" * 32
TERMS = KeyTerms(name="test")


@pytest.fixture
async def ring(database: Database) -> AsyncIterator[KeyRing]:
    made = KeyRing(KeyStore(database, lambda: SECRET), most=2)
    await made.start()
    assert await made.ready(90)
    yield made
    await made.aclose()


def elsewhere(database: Database) -> KeyStore:
    """The store of another process."""
    return KeyStore(database, lambda: SECRET)


async def created(store: KeyStore, terms: KeyTerms) -> tuple[StoredKey, str]:
    stored, key = await store.create(terms)
    return stored, learn("API key", key)


async def test_a_key_is_known_once_it_has_been_looked_for(ring: KeyRing) -> None:
    _, key = await created(ring.store, TERMS)
    assert ring.known(key) is None
    found = await ring.find(key)
    assert found is not None
    assert ring.known(key) is found
    assert found.caller.tenant == f"key:{found.id}"


async def test_what_is_not_a_key_is_never_known(ring: KeyRing) -> None:
    for wrong in ("", "ga_", "\udcff", "é" * 1000, "' OR 1=1 --"):
        assert await ring.find(wrong) is None
        assert ring.known(wrong) is None


async def test_a_key_under_another_secret_is_unknown(ring: KeyRing, database: Database) -> None:
    _, key = await created(KeyStore(database, lambda: b"y" * 32), TERMS)
    assert await ring.find(key) is None


async def test_no_more_keys_are_known_than_the_bound(ring: KeyRing) -> None:
    keys = [(await created(ring.store, TERMS))[1] for _ in range(3)]
    for key in keys:
        await ring.find(key)
    assert [ring.known(key) is not None for key in keys] == [False, True, True]


class CountingStore(KeyStore):
    """Counts what it is asked."""

    asked = 0

    async def find(self, key: str) -> tuple[StoredKey | None, KeysState]:
        self.asked += 1
        return await super().find(key)


async def test_many_calls_with_one_key_are_one_question(database: Database) -> None:
    store = CountingStore(database, lambda: SECRET)
    ring = KeyRing(store)
    await ring.start()
    assert await ring.ready(90)
    _, key = await created(store, TERMS)
    found = await asyncio.gather(*(ring.find(key) for _ in range(64)))
    assert store.asked == 1
    assert found[0] is not None and all(one is found[0] for one in found)
    await ring.aclose()


async def test_a_ring_that_is_never_asked_looks_once(database: Database) -> None:
    class Looks(KeyStore):
        count = 0

        async def state(self) -> KeysState:
            self.count += 1
            return await super().state()

    store = Looks(database, lambda: SECRET)
    ring = KeyRing(store)
    await ring.start()
    assert await ring.ready(90)
    await asyncio.sleep(EVERY + 0.1)
    assert store.count == 1
    assert ring.known("ga_") is None
    async with asyncio.timeout(60):
        while store.count < 3:  # noqa: ASYNC110 - it tells no one
            await asyncio.sleep(0.01)
    await ring.aclose()


async def test_who_asks_after_a_change_gets_no_answer_of_before(ring: KeyRing) -> None:
    stored, key = await created(ring.store, TERMS)
    earlier = asyncio.create_task(ring.find(key))
    await asyncio.sleep(0)
    await ring.store.revoke(stored.id)
    assert await ring.find(key) is None
    await earlier
    assert ring.known(key) is None


async def test_a_caller_that_leaves_takes_no_answer_away_from_the_others(ring: KeyRing) -> None:
    _, key = await created(ring.store, TERMS)
    first, second = (asyncio.create_task(ring.find(key)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is not None


async def test_a_change_of_this_process_counts_at_once(ring: KeyRing) -> None:
    stored, key = await created(ring.store, TERMS)
    await ring.find(key)
    await ring.store.revoke(stored.id)
    assert ring.known(key) is None
    assert await ring.find(key) is None
    with pytest.raises(NotFound):
        await ring.store.revoke(stored.id)
    with pytest.raises(NotFound):
        await ring.store.rotate(stored.id)


async def test_a_change_of_another_process_counts_within_two_seconds(ring: KeyRing, database: Database) -> None:
    other = elsewhere(database)
    stored, key = await created(other, TERMS)
    await ring.find(key)
    await other.revoke(stored.id)
    await asyncio.sleep(EVERY + 0.4)
    assert ring.known(key) is None
    assert await ring.find(key) is None


async def test_a_backup_that_was_put_back_counts_too(ring: KeyRing, database: Database) -> None:
    """Its number is an earlier one."""
    _, key = await created(ring.store, TERMS)
    await ring.find(key)
    await database.write(lambda connection: connection.execute(update(key_changes).values(number=0)))
    await asyncio.sleep(EVERY + 0.4)
    assert ring.known(key) is None


async def test_an_expired_key_is_not_known_any_more(ring: KeyRing) -> None:
    before = time.time()
    _, key = await created(ring.store, KeyTerms(name="short", expires="1m"))
    after = time.time()
    found = await ring.find(key)
    assert found is not None
    assert found.expires_at is not None
    assert before + 59 <= found.expires_at <= after + 60  # a store may keep whole seconds
    assert ring.known(key) is not None


async def test_a_key_is_void_by_its_id_once_it_is_revoked_or_has_expired(ring: KeyRing, database: Database) -> None:
    store = ring.store
    live, revoked, rotated, expired = [(await created(store, TERMS))[0].id for _ in range(4)]
    await store.revoke(revoked)
    await store.rotate(rotated)
    over = update(api_keys).where(api_keys.c.id == expired).values(expires_at=1.0)
    await database.write(lambda connection: connection.execute(over))
    # the id of a key that is rotated goes on
    void = [await store.is_void(id) for id in (live, revoked, rotated, expired, "of no key")]
    assert void == [False, True, False, True, False]


async def test_whether_any_key_was_ever_made(ring: KeyRing) -> None:
    assert not await ring.exist()
    stored, _ = await created(ring.store, TERMS)
    assert await ring.exist()
    await ring.store.revoke(stored.id)
    assert await ring.exist()


@pytest.mark.long
async def test_without_its_database_nothing_is_known_for_longer_than_two_seconds(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    database = Database(create_migrated(postgres, "ring"), tmp_path, 60.0)
    await database.start()
    assert await database.ready(90)
    ring = KeyRing(KeyStore(database, lambda: SECRET))
    await ring.start()
    try:
        assert await ring.ready(90)
        _, key = await created(ring.store, TERMS)
        assert await ring.find(key) is not None
        for begin, end in ((postgres.stop, postgres.start), (postgres.freeze, postgres.resume)):
            await asyncio.to_thread(begin)
            await asyncio.sleep(TRUSTED_SECONDS)
            assert ring.known(key) is None
            async with asyncio.timeout(30):  # the database itself is given a minute
                for ask in (ring.find(key), ring.find("another"), ring.exist()):
                    with pytest.raises(StoreUnavailable):
                        await ask
            await asyncio.to_thread(end)
            await known_again(ring, key)
    finally:
        await ring.aclose()
        await database.aclose()


async def known_again(ring: KeyRing, key: str) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not ring.is_trusted:  # noqa: ASYNC110 - it looks by itself, and nothing rings
            await asyncio.sleep(0.05)
    assert await ring.find(key) is not None
