"""PostgreSQL stopped, mute and flapping under load: nobody gets in on a guess, nothing hangs, and it is soon over."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from apps.tests.overheard import hearing_client
from apps.tests.support.keys import bearer, make_dead_keys, make_keys
from apps.tests.support.migrated import create_migrated
from apps.tests.support.postgres_server import PASSWORD, PostgresServer
from apps.tests.support.processes import Running, running
from apps.tests.support.serving import settings
from apps.tests.support.waiting import until

SECRET = "sK3y-9vQm2Xw7Lr5Tz8Bn4Hc6Jd1Fg0PaUeYoIi"


@dataclass(slots=True)
class Load:
    """Callers with good keys and with bad ones, and what became of their calls: (who, status)."""

    url: str
    callers: dict[str, str]
    answers: list[tuple[str, int]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    @contextmanager
    def going(self) -> Iterator[None]:
        over = threading.Event()
        threads = [threading.Thread(target=self._call, args=(name, over)) for name in self.callers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join(90)
        assert not self.failures, self.failures

    def latest(self, mark: int) -> dict[str, int]:
        """The last status of each caller who was answered after the first ``mark`` answers."""
        return dict(self.answers[mark:])

    def _call(self, name: str, over: threading.Event) -> None:
        try:
            with hearing_client(timeout=90) as client:
                while not over.is_set():
                    status = client.get(f"{self.url}/v1/models", headers=bearer(self.callers[name])).status_code
                    self.answers.append((name, status))
                    time.sleep(0.01)
        except httpx2.HTTPError as error:
            self.failures.append(error)


@pytest.fixture
def loaded(postgres: PostgresServer, tmp_path: Path) -> Iterator[tuple[Running, Load]]:
    name = f"outage_{os.urandom(4).hex()}"
    configured = settings(database_url=create_migrated(postgres, name), secret_key=SECRET, data_dir=tmp_path)
    good = make_keys(configured, *[{}] * 4)
    callers = {f"good {number}": key for number, key in enumerate(good)}
    callers |= {f"bad {kind}": key for kind, key in make_dead_keys(configured).items()}
    callers |= {"bad unknown": "ga_" + "A" * 43}
    with running(
        tmp_path, DATABASE_URL=postgres.url_of(name), SECRET_KEY=SECRET, LOG_LEVEL="debug", DATABASE_TIMEOUT="0.9"
    ) as service:
        yield service, Load(service.url, callers)


def check(load: Load) -> None:
    """The calls' own bound of time ends a hang; how soon a refusal comes is the setting DATABASE_TIMEOUT."""
    assert {status for name, status in load.answers if name.startswith("bad")} <= {401, 503}
    assert {status for name, status in load.answers if name.startswith("good")} <= {200, 503}


def recovers(load: Load) -> None:
    """Wait until the last answer of every caller is what it should be."""
    mark, right = len(load.answers), {name: 200 if name.startswith("good") else 401 for name in load.callers}
    assert until(lambda: load.latest(mark) == right), load.answers[-20:]


def outage(load: Load, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Once what was known is not trusted any more, no call is admitted or refused until it is over."""
    begin()
    mark = len(load.answers)
    assert until(lambda: load.latest(mark) == dict.fromkeys(load.callers, 503)), load.answers[-20:]
    closed = len(load.answers)
    assert until(lambda: len(load.answers) >= closed + 10 * len(load.callers))
    during = load.answers[closed:]
    end()
    assert {status for _, status in during} == {503}, during[:10]
    recovers(load)


@pytest.mark.parametrize("how", ["stopped", "mute"])
@pytest.mark.long
def test_keys_without_their_database_are_refused_and_good_again_with_it(
    how: str, loaded: tuple[Running, Load], postgres: PostgresServer
) -> None:
    service, load = loaded
    begin, end = (postgres.stop, postgres.start) if how == "stopped" else (postgres.freeze, postgres.resume)
    with load.going():
        recovers(load)
        outage(load, begin, end)
        health = httpx2.get(f"{service.url}/health", timeout=90)
    assert health.status_code == 200
    check(load)
    log = service.log.read_text()
    assert log.count("The database cannot be used") >= 1
    assert "Traceback" not in log
    for secret in (PASSWORD, SECRET, *load.callers.values()):
        assert not [part for part in windows(secret) if part in log]


@pytest.mark.long
def test_a_flapping_database_lets_nobody_in(loaded: tuple[Running, Load], postgres: PostgresServer) -> None:
    _, load = loaded
    with load.going():
        recovers(load)
        for pause in (0.3, 1.2, 0.1, 2.5, 0.6):
            postgres.freeze()
            time.sleep(pause)
            postgres.resume()
            time.sleep(0.3)
        for _ in range(3):
            postgres.stop()
            postgres.start()
        recovers(load)
    check(load)


@pytest.mark.long
def test_a_service_that_starts_without_its_database_waits_for_it(
    postgres: PostgresServer, tmp_path: Path, http: httpx2.Client
) -> None:
    name = f"late_{os.urandom(4).hex()}"
    configured = settings(database_url=create_migrated(postgres, name), secret_key=SECRET, data_dir=tmp_path)
    (key,) = make_keys(configured, {})
    postgres.stop()
    try:
        environment = {"DATABASE_URL": postgres.url_of(name), "SECRET_KEY": SECRET, "ENV": "production"}
        environment["DATABASE_TIMEOUT"] = "0.9"
        with running(tmp_path, **environment) as service:
            assert http.get(f"{service.url}/health").status_code == 200
            assert http.get(f"{service.url}/v1/models", headers=bearer(key)).status_code == 503
            assert http.get(f"{service.url}/v1/models").status_code == 401
            postgres.start()
            assert until(lambda: http.get(f"{service.url}/v1/models", headers=bearer(key)).status_code == 200)
    finally:
        if postgres.process is None:
            postgres.start()


def windows(secret: str) -> list[str]:
    return [secret[at : at + 8] for at in range(len(secret) - 7)]
