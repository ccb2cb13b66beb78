"""The numbers of limits, ledger and budgets: there at a scrape, and true."""

import asyncio
import time
from pathlib import Path

import httpx2

from apps.api.src.wiring.stores import Accounts, build_accounts
from apps.core.callers import Caller
from apps.core.calls import CallRecord
from apps.operations.database import Database
from apps.tests.support.serving import settings


def numbers(accounts: Accounts) -> dict[str, float]:
    return {"".join((one.name, *one.labels.values())): one.value for one in accounts.observations()}


async def test_what_was_written_is_counted(tmp_path: Path) -> None:
    database = Database("", tmp_path, 60.0)
    accounts = build_accounts(settings(), database)
    await database.start()
    await accounts.start()
    for book in accounts.bookkeepers():
        book.closing(CallRecord(Caller("t", "k"), "/generate", "m"))
    assert numbers(accounts)["genai_ledger_waiting"] == 1
    await accounts.aclose()
    await database.aclose()
    told = numbers(accounts)
    assert (told["genai_ledger_waiting"], told["genai_ledger_written_total"], told["genai_ledger_lost_total"]) == (
        0,
        1,
        0,
    )
    assert told["genai_budget_refused_totalexhausted"] == 0
    assert not [name for name in told if "rate_limit" in name]


async def test_old_rows_become_sums_where_the_settings_say_so(tmp_path: Path) -> None:
    for days, folded in ((0, 0), (9, 0), (1, 1)):
        database = Database("", tmp_path, 60.0)
        accounts = build_accounts(settings(ledger_retention_days=days), database)
        await database.start()
        assert await database.ready(60)
        await accounts.start()
        await asyncio.sleep(0.3)  # the first turn comes at once
        async with asyncio.timeout(90):
            while numbers(accounts)["genai_ledger_folded_total"] != folded:  # noqa: ASYNC110 - another task's work
                await asyncio.sleep(0.05)
        if not days:
            record = CallRecord(Caller("t", "k"), "/generate", "m", begun_at=time.time() - 2 * 86_400)
            for book in accounts.bookkeepers():
                book.closing(record)
        await accounts.aclose()
        await database.aclose()


async def test_a_redis_that_is_away_is_told(http: httpx2.Client) -> None:
    accounts = build_accounts(settings(rate_limit_storage="redis://127.0.0.1:1"), None)
    await accounts.start()
    assert (await accounts.limits.counts.hit("key", 60)).used == 1
    await accounts.aclose()
    told = numbers(accounts)
    assert told == {
        "genai_rate_limit_degraded": 1,
        "genai_rate_limit_processes": 1,
        "genai_rate_limit_outages_total": 1,
        "genai_rate_limit_local_hits_total": 1,
    }
