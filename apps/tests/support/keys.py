"""Keys for tests, made as the command line makes them: by another user of the same database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import update

from apps.api.src.wiring.stores import build_database, build_key_store
from apps.core.settings import Settings
from apps.operations.database import Database
from apps.operations.key_store import KeyStore
from apps.operations.key_terms import KeyTerms
from apps.operations.tables import api_keys
from apps.tests.marks import learn

T = TypeVar("T")
ADMIN: dict[str, Any] = {"name": "operator", "admin": True}


def with_store(settings: Settings, work: Callable[[KeyStore, Database], Awaitable[T]]) -> T:
    async def run() -> T:
        async with opened(settings) as (store, database):
            return await work(store, database)

    return asyncio.run(run())


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[KeyStore, Database]]:
    database = build_database(settings)
    await database.start()
    try:
        assert await database.ready(20)
        yield build_key_store(settings, database), database
    finally:
        await database.aclose()


def make_keys(settings: Settings, *terms: dict[str, Any]) -> list[str]:
    async def work(store: KeyStore, _: Database) -> list[str]:
        made = [(await store.create(KeyTerms(**{"name": "test", **each})))[1] for each in terms]
        return [learn("API key", key) for key in made]

    return with_store(settings, work)


def make_dead_keys(settings: Settings) -> dict[str, str]:
    """As `dead_keys`, in the database of these settings."""
    return with_store(settings, dead_keys)


async def dead_keys(store: KeyStore, database: Database) -> dict[str, str]:
    """A key that is revoked, one that has been rotated away, and one whose time is over."""
    made = {name: await store.create(KeyTerms(name=name)) for name in ("revoked", "rotated", "expired")}
    await store.revoke(made["revoked"][0].id)
    _, new = await store.rotate(made["rotated"][0].id)
    over = update(api_keys).where(api_keys.c.id == made["expired"][0].id).values(expires_at=1.0)
    await database.write(lambda connection: connection.execute(over))
    for key in (new, *(key for _, key in made.values())):
        learn("API key", key)
    return {name: key for name, (_, key) in made.items()}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
