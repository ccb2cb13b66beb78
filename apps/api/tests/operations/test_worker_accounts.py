"""Limits and budgets of keys over two processes of the API: exact, however their calls meet."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from apps.tests.support.cli import created
from apps.tests.support.migrated import create_migrated
from apps.tests.support.postgres_server import PostgresServer, needs_postgres
from apps.tests.support.processes import Running, running
from apps.tests.support.routing import ASK
from apps.tests.support.waiting import until
from eval.mock_upstream import mock_upstream

pytestmark = pytest.mark.long

BODY = {"model": "gpt-4o-mini", "max_tokens": 20, **ASK}
CALLERS, CALLS = 8, 64
LIMIT = 15
PAID = 11
"""Calls that the budget lets in: ten and a half of them, and the last is let in while anything is left."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    with mock_upstream(tokens=6) as mock:
        given = {"AUTH": "on", "OPENAI_BASE_URL": mock.base_url, "OPENAI_PRICE": "100/200"}
        given |= {"DATA_DIR": str(tmp_path / "data"), "DATABASE_TIMEOUT": "60"}
        if request.param == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres")
            given["DATABASE_URL"] = create_migrated(server, "worker_accounts")
        yield given


def ask(url: str, key: str) -> httpx2.Response:
    """On a connection of its own, which the kernel gives to either worker."""
    return httpx2.post(f"{url}/v1/chat/completions", json=BODY, headers={"Authorization": f"Bearer {key}"}, timeout=150)


def all_at_once(service: Running, key: str) -> Counter[int]:
    """The statuses of many calls."""
    with ThreadPoolExecutor(CALLERS) as callers:
        return Counter(callers.map(lambda _: ask(service.url, key).status_code, range(CALLS)))


def test_a_limit_and_a_budget_of_a_key_are_exact_over_two_workers(
    settings: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    free = created(tmp_path, "keys create --name free", **settings)
    limited = created(tmp_path, f"keys create --name limited --rpm {LIMIT}", **settings)
    with running(tmp_path, API_WORKERS="2", **settings) as service:
        cost = float(ask(service.url, free).headers["x-cost-usd"])
        budget = f"{cost * (PAID - 0.5):.9f}"
        paying = created(tmp_path, f"keys create --name paying --budget-usd {budget}/month", **settings)
        # one after the other both workers learn of it
        assert until(lambda: all_at_once(service, free) == {200: CALLS})
        assert all_at_once(service, limited) == {200: LIMIT, 429: CALLS - LIMIT}
        paid = all_at_once(service, paying)
        assert set(paid) <= {200, 429}
        # a call is refused while others hold what is left: what they did not use is let in afterwards
        assert until(lambda: _is_used_up(service.url, paying, paid))
        assert paid[200] == PAID, paid
    spent, rows, reserved = _books(settings, request)
    assert (rows, reserved) == (PAID, 0)
    assert spent == pytest.approx(PAID * cost * 1e9, abs=PAID)


def _is_used_up(url: str, key: str, seen: Counter[int]) -> bool:
    answer = ask(url, key)
    seen[answer.status_code] += 1
    return answer.status_code == 429 and "is used up" in answer.text


def _books(settings: dict[str, str], request: pytest.FixtureRequest) -> tuple[int, int, int]:
    """Billionths of US dollars that are spent, answered calls of the key, and what is still reserved."""
    statement = (
        "SELECT (SELECT sum(spent) FROM budgets), (SELECT count(*) FROM calls WHERE outcome = 'ok' AND key_id IN"
        " (SELECT id FROM api_keys WHERE name = 'paying')), (SELECT coalesce(sum(reserved), 0) FROM budgets)"
    )
    if "DATABASE_URL" in settings:
        told = request.getfixturevalue("postgres").psql(statement, "worker_accounts").strip().split("|")
        return int(told[0]), int(told[1]), int(told[2])
    with closing(sqlite3.connect(Path(settings["DATA_DIR"]) / "genai.db", timeout=90)) as connection:
        spent, rows, reserved = connection.execute(statement).fetchone()
        return spent, rows, reserved
