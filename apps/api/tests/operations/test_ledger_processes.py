"""The ledger and the budgets of a real service that is killed, ended or deprived of its database under load."""

import random
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from apps.operations.ledger_rows import records_of
from apps.tests.support.budgets import budgeted
from apps.tests.support.cli import created
from apps.tests.support.load import Load, loading
from apps.tests.support.migrated import create_migrated
from apps.tests.support.postgres_server import PostgresServer, needs_postgres
from apps.tests.support.processes import running
from apps.tests.support.routing import ASK
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "max_tokens": 20, **ASK}
LEASE = 30
Ask = Callable[[str], int]


@dataclass(slots=True)
class Site:
    """A folder with a database, a key with a budget and one without; and a way to look into the database."""

    folder: Path
    settings: dict[str, str]
    paying: str
    free: str
    ask: Ask
    data: Path

    @property
    def rows(self) -> int:
        return self.ask("SELECT count(*) FROM calls WHERE outcome = 'ok'")

    @property
    def reserved(self) -> int:
        return self.ask("SELECT coalesce(sum(reserved), 0) FROM budgets")

    def check(self) -> None:
        """Every charge has its row and every row of the key its charge; what is reserved is held by somebody."""
        spent = self.ask("SELECT coalesce(sum(spent), 0) FROM budgets")
        paid = self.ask(
            "SELECT coalesce(sum(cost), 0) FROM calls WHERE key_id IN (SELECT id FROM api_keys WHERE name = 'paying')"
        )
        held = self.ask("SELECT coalesce(sum(amount), 0) FROM reservations")
        assert (spent, self.reserved) == (paid, held)


def site(folder: Path, mock: MockUpstream, ask: Ask, **settings: str) -> Site:
    data = folder / "data"
    settings |= {
        "DATABASE_TIMEOUT": "60",
        "DATA_DIR": str(data),
        "OPENAI_BASE_URL": mock.base_url,
        "OPENAI_PRICE": "1/2",
        "AUTH": "on",
    }
    paying = created(folder, "keys create --name paying --budget-usd 1000000/month", **settings)
    free = created(folder, "keys create --name free", **settings)
    return Site(folder, settings, paying, free, ask, data)


@pytest.fixture
def on_sqlite(tmp_path: Path, mock: MockUpstream) -> Site:
    def ask(statement: str) -> int:
        with closing(sqlite3.connect(tmp_path / "data" / "genai.db", timeout=90)) as connection:
            found: int = connection.execute(statement).fetchone()[0]
            connection.commit()
            return found

    return site(tmp_path, mock, ask)


@pytest.fixture
def on_postgres(tmp_path: Path, mock: MockUpstream, postgres: PostgresServer) -> Site:
    name = f"ledger_{secrets.token_hex(4)}"
    url = create_migrated(postgres, name)
    return site(tmp_path, mock, lambda statement: int(postgres.psql(statement, name) or 0), DATABASE_URL=url)


def begun(load: Load) -> bool:
    """Whether some calls have been answered."""
    return load.count(200) > 5


def grown(load: Load, status: int | None, count: int) -> bool:
    """Whether it has seen more than so many calls, of any status where none is given."""
    return (len(load.seen) if status is None else load.count(status)) > count


def kill_at_random_points(at: Site, times: int) -> None:
    """After each the books balance, and the next start writes down what was answered and had no row yet."""
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    answered, seen, journal = 0, 0, at.data / "journal"
    for _ in range(times):
        with running(at.folder, **at.settings) as service, loading(service.url + CHAT, BODY, at.paying) as load:
            assert until(partial(begun, load))
            time.sleep(chance.random() * 0.5)
            service.process.kill()
        at.check()
        answered += load.count(200)
        seen += len(load.seen) + 4
    assert answered > times * 5
    with running(at.folder, **at.settings) as service:
        assert until(lambda: at.rows >= answered)
        assert until(lambda: kept_in(journal) == [[]])
        service.process.kill()
    at.check()
    assert answered <= at.rows <= seen
    assert kept_in(journal) == [[]], "all was written"


def kept_in(journal: Path) -> list[list[Any]]:
    """The records in each of its files; one whose rows are written goes meanwhile."""
    found = []
    for file in journal.iterdir():
        with suppress(FileNotFoundError):
            found.append(list(records_of(file.read_bytes())))
    return found


def nothing_is_reserved_for_ever(at: Site) -> None:
    """What the dead have left ends within a minute of their end; here the minute is taken off the dates."""
    latest = at.ask("SELECT cast(coalesce(max(expires_at), 0) AS integer) FROM reservations")
    assert latest <= time.time() + LEASE
    at.ask("UPDATE reservations SET expires_at = expires_at - 60 RETURNING 1" if at.reserved else "SELECT 1")
    with running(at.folder, **at.settings):
        assert until(lambda: not at.reserved)
    at.check()


@pytest.mark.long
def test_killed_again_and_again_at_random_points_the_books_balance(on_sqlite: Site) -> None:
    kill_at_random_points(on_sqlite, budgeted(20, 8))
    nothing_is_reserved_for_ever(on_sqlite)


@needs_postgres
@pytest.mark.long
def test_killed_at_five_random_points_the_books_balance_in_postgresql_too(on_postgres: Site) -> None:
    kill_at_random_points(on_postgres, 5)
    on_postgres.check()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.long
def test_sigterm_under_load_loses_no_row(stream: bool, on_sqlite: Site) -> None:
    at = on_sqlite
    with running(at.folder, **at.settings) as service:
        url = service.url + CHAT
        with (
            loading(url, {**BODY, "stream": stream}, at.paying) as paying,
            loading(url, {**BODY, "stream": stream}, at.free) as free,
        ):
            assert until(lambda: paying.count(200) > 20 and free.count(200) > 40)
            service.end()
    answered = paying.count(200) + free.count(200)
    assert answered > 50
    assert answered <= at.rows <= answered + 8  # an answer may be written and not be read to its end
    at.check()
    assert at.reserved == 0


@needs_postgres
@pytest.mark.parametrize("trouble", ["stopped", "frozen", "flapping"])
@pytest.mark.long
def test_without_postgresql_budgets_are_closed_and_open_again_with_it(
    trouble: str, on_postgres: Site, postgres: PostgresServer
) -> None:
    at = on_postgres
    with running(at.folder, **at.settings | {"DATABASE_TIMEOUT": "0.9"}) as service:
        with loading(service.url + CHAT, BODY, at.paying) as load:
            assert until(lambda: load.count(200) > 5)
            if trouble == "flapping":
                for _ in range(3):
                    postgres.freeze()
                    time.sleep(0.6)
                    postgres.resume()
                    time.sleep(0.2)
            else:
                (postgres.stop if trouble == "stopped" else postgres.freeze)()
                gone, refused = len(load.seen), load.count(503) + 8
                assert until(lambda: load.count(503) >= refused)
                without = load.seen[gone:]
                (postgres.start if trouble == "stopped" else postgres.resume)()
                # one on each connection may have had its reservation before
                assert sum(seen.status == 200 for seen in without) <= 4
            again = load.count(200) + 10
            assert until(lambda: load.count(200) >= again)
        service.end()
    assert not [seen for seen in load.seen if seen.status not in (200, 503)]
    at.check()
    assert at.rows >= load.count(200)


@needs_postgres
@pytest.mark.long
def test_a_postgresql_that_is_killed_in_the_middle_loses_no_answered_call_and_doubles_none(
    on_postgres: Site, postgres: PostgresServer
) -> None:
    at = on_postgres
    with running(at.folder, **at.settings | {"DATABASE_TIMEOUT": "0.9"}) as service:
        url = service.url + CHAT
        with loading(url, BODY, at.paying) as paying, loading(url, BODY, at.free) as free:
            for _ in range(3):
                assert until(partial(begun, paying))
                assert until(partial(begun, free))
                postgres.kill()
                assert until(partial(grown, paying, None, len(paying.seen) + 8))
                postgres.start()
                assert until(partial(grown, paying, 200, paying.count(200) + 5))
        whole = paying.count(200) + free.count(200)
        # by itself: the service was neither ended nor started again
        assert until(lambda: at.rows >= whole)
        assert at.rows == whole
        assert at.ask("SELECT count(DISTINCT id) FROM calls WHERE outcome = 'ok'") == whole
        service.end()
    assert at.rows == whole
    assert {seen.status for load in (paying, free) for seen in load.seen} <= {200, 503}
    at.check()
    assert at.reserved == 0
