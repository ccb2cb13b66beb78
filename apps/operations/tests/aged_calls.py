"""What the tests of retention share: calls of some weeks, and what is said of them in the end."""

import random
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.core.callers import Caller
from apps.core.calls import CacheUse, CallRecord, Usage
from apps.operations.database import Database
from apps.operations.ledger import usage
from apps.operations.ledger_rows import DAY, GROUPS, UsageQuestion, UsageReport, day_of, entry_of
from apps.operations.ledger_store import LedgerStatements
from apps.operations.tables import calls, daily_usage

# 2025-11-25, at noon
NOW = 1_764_072_000.0
KEEPING = 7
OUTCOMES = ("ok", "ok", "ok", "TIMEOUT")
CACHES: tuple[CacheUse, ...] = ("off", "miss", "hit", "semantic", "replay")


def old_calls(count: int, seed: int = 7) -> list[CallRecord]:
    """Of the last 20 days, of a few tenants, keys and models; some failed, some have no key, model or tokens."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        tenant, own = chance.choice(("a", "b")), chance.choice(("k1", "k2", None))
        record = CallRecord(Caller(tenant, own), chance.choice(("/generate", "/v1/embeddings")), "asked")
        record.begun_at = NOW - chance.randrange(20 * DAY)
        record.model = chance.choice(("m", "n", ""))
        record.outcome, record.cache = chance.choice(OUTCOMES), chance.choice(CACHES)
        cost = chance.choice((None, 0.1, 1e-9, 12.345678901))
        if chance.random() < 0.8:
            record.usage = Usage(chance.randrange(10**12), chance.randrange(100), chance.randrange(10), cost)
        else:
            record.spent = cost
        made.append(record)
    return made


async def fill(database: Database, records: Sequence[CallRecord]) -> None:
    entries = [entry_of(record) for record in records]
    await database.write(lambda connection: LedgerStatements(connection).put(entries), 30)


async def told(database: Database, *group_by: str, **only: str) -> UsageReport:
    first, last = day_of(NOW - 30 * DAY), day_of(NOW + DAY)
    return await usage(database, UsageQuestion(first, last, group_by, only, limit=10_000))


async def everything(database: Database) -> list[UsageReport]:
    """Usage by all that it can be asked by: together, one by one, and narrowed down."""
    asked = [await told(database, name) for name in GROUPS]
    narrow = [await told(database, "day", **only) for only in ({"key": "k1"}, {"model": "asked"}, {"tenant": "b"})]
    return [await told(database, *GROUPS), *asked, *narrow]


async def rows(database: Database) -> tuple[int, int, str]:
    """Of the ledger, of the sums, and the oldest day of the ledger's."""

    async def read(connection: AsyncConnection) -> tuple[int, int, str]:
        found = (await connection.execute(select(func.count(), func.min(calls.c.day)).select_from(calls))).one()
        sums = (await connection.execute(select(func.count()).select_from(daily_usage))).scalar_one()
        return int(found[0]), int(sums), str(found[1])

    return await database.read(read)
