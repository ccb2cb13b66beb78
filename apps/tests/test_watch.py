"""A secret that gets out fails the run, wherever it got out, even if only eight characters of it did.

Each leak is made by a test of its own, all of them in a run of pytest of its own with this very plugin.
"""

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from apps.tests.marks import FEW, Marks, learn_environment, marked
from apps.tests.support.processes import environment
from apps.tests.watch import Watch

ROOT = Path(__file__).parents[2]
SECRET = "aB3dE5gH7jK9mN1pQ4sT6vW8"
IMPORTS = """
import logging, os, sqlite3, subprocess, sys
from pathlib import Path
import httpx2
from fastapi import FastAPI, Response
from apps.tests.support.collector import collector
from apps.tests.support.processes import environment, heard
from apps.tests.support.serving import serving, settings
from apps.tests.marks import learn
from apps.tests.watch import WATCH
SECRET = learn("API key", os.environ["TO_LEAK"])
PART = SECRET[11:19]
"""
# each by the way that a real one would come
LEAKS = {
    "file": "(tmp_path / 'data').mkdir(); (tmp_path / 'data/any').write_bytes(b'abc' + PART.encode())",
    "database": (
        "base = sqlite3.connect(tmp_path / 'genai.db'); base.execute('create table t (x)');"
        "base.execute('insert into t values (?)', (PART,)); base.commit()"
    ),
    "data_folder": "(settings().data_dir / 'ledger').write_text(PART)",
    "log_of_this_process": "logging.getLogger('apps.x').warning('refused %s', PART)",
    "traceback": "logging.getLogger('apps.x').info('starts with %s', 'x' + PART)",
    "standard_error": "print('y' + PART, file=sys.stderr)",
    "process": (
        "heard(subprocess.run([sys.executable, '-c', 'import os; print(os.environ[\"LEAK_KEY\"][5:13])'],"
        "env=environment(0, {'LEAK_KEY': SECRET}), capture_output=True, text=True))"
    ),
    "answer": (
        "app = FastAPI(); app.get('/x')(lambda: Response('{\"error\": \"' + PART + '\"}', 500))\n"
        "    with serving(app) as url: httpx2.get(url + '/x')"
    ),
    "header": (
        "app = FastAPI(); app.get('/x')(lambda: Response('', headers={'X-Model': PART}))\n"
        "    with serving(app) as url: httpx2.get(url + '/x')"
    ),
    "metrics": (
        "app = FastAPI(); app.get('/metrics')(lambda: Response('calls{model=\"' + PART + '\"} 1'))\n"
        "    with serving(app): pass"
    ),
    "credential": (
        "app = FastAPI(); app.get('/x')(lambda: Response('k8T2xQ9w'))\n"
        "    with serving(app) as url: httpx2.get(url + '/x', headers={'X-API-Key': 'a-k8T2xQ9wZ-b'})"
    ),
    "trace": "with collector() as taken: httpx2.post(taken.url + '/any', content=PART.encode())",
}
INNOCENT = {
    "settings": "(tmp_path / '.env').write_text('OPENAI_API_KEY=' + SECRET)",
    "own_file": "(tmp_path / 'secret_key').write_text(SECRET)",
    "seven_characters": "(tmp_path / 'log').write_text(SECRET[3:10] + ' ' + SECRET[12:19])",
    "nothing": "(tmp_path / 'log').write_text('started')",
}


def run(folder: Path, bodies: dict[str, str], secret: str, *more: str) -> subprocess.CompletedProcess[str]:
    tests = "".join(f"def test_{name}(tmp_path):\n    {body}\n" for name, body in bodies.items())
    (folder / "test_inner.py").write_text(IMPORTS + tests)
    # a worker's name and options of the outer run are none of the inner one's
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    own = {**outer, "PYTHONPATH": str(ROOT), "TO_LEAK": secret}
    options = [
        "-q",
        "-p",
        "no:schemathesis",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
        "--basetemp",
        str(folder / "base"),
    ]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *more, "-p", "apps.tests.plugin", "test_inner.py"],
        cwd=folder,
        env=own,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, subprocess.CompletedProcess[str]]:
    """The secret, and the run that leaked it in every way."""
    secret = "x9" + secrets.token_urlsafe(30)
    return secret, run(tmp_path_factory.mktemp("leaking"), LEAKS, secret)


@pytest.mark.parametrize("way", LEAKS)
@pytest.mark.long
def test_eight_characters_fail_the_test_that_wrote_them(
    way: str, leaking: tuple[str, subprocess.CompletedProcess[str]]
) -> None:
    _, done = leaking
    (_, told) = done.stdout.split(f"ERROR at teardown of test_{way} ")
    assert told.splitlines()[1] == "A secret was written where none belongs (1):"
    assert f"ERROR test_inner.py::test_{way} - " in done.stdout


def test_a_leak_fails_the_run_and_is_not_told(leaking: tuple[str, subprocess.CompletedProcess[str]]) -> None:
    secret, done = leaking
    assert done.returncode == 1
    assert f"{len(LEAKS)} passed, {len(LEAKS)} errors" in done.stdout
    assert known(secret).find(done.stdout.encode()) == []


@pytest.mark.long
def test_what_belongs_where_it_is_fails_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, INNOCENT, "x9" + secrets.token_urlsafe(30))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(INNOCENT)} passed" in done.stdout
    assert "secrets: " in done.stdout


@pytest.mark.long
def test_what_came_when_its_test_was_over_fails_the_run(tmp_path: Path) -> None:
    """It is in a folder of a module, which is looked through at the end."""
    body = "later = tmp_path.parent / 'of-a-module'; later.mkdir(); (later / 'log').write_text(PART)"
    done = run(tmp_path, {"it": body}, "x9" + secrets.token_urlsafe(30))
    assert done.returncode == 1
    assert re.search(r"API key #\d+: in file of-a-module/log", done.stdout)


LATE = """
import os, pytest
from apps.tests.watch import WATCH

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        WATCH.took("log of a thread that goes on", os.environ["TO_LEAK"][11:19])
"""


@pytest.mark.long
def test_what_a_worker_finds_at_its_end_fails_the_run_of_all_workers(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(LATE)
    done = run(tmp_path, {"leak": "(tmp_path / 'log').write_text(PART)", "quiet": "assert PART"}, SECRET, "-n2")
    # no second try of the tests that failed could take it back
    assert done.returncode == pytest.ExitCode.INTERNAL_ERROR
    assert "2 passed, 1 error" in done.stdout, done.stdout
    assert "ERROR at teardown of test_leak" in done.stdout
    assert re.search(r"\(2\):\nAPI key #\d+: in log of a thread that goes on", done.stdout)


def order(folder: Path, *more: str) -> list[str]:
    done = run(folder, {f"number_{number}": "pass" for number in range(30)}, SECRET, "-vv", *more)
    assert "30 passed" in done.stdout, done.stdout
    return re.findall(r"::(test_number_\d+) PASSED", done.stdout.replace("\n", " "))


@pytest.mark.long
def test_the_order_is_the_seeds(tmp_path: Path) -> None:
    written, one, again, two = order(tmp_path), *(order(tmp_path, f"--order-seed={seed}") for seed in (1, 1, 2))
    assert written == [f"test_number_{number}" for number in range(30)]
    assert one == again
    assert len({tuple(written), tuple(one), tuple(two)}) == 3
    assert set(one) == set(two) == set(written)


def known(*secrets: str) -> Marks:
    marks = Marks()
    for secret in secrets:
        marks.learn("kind", secret)
    return marks


@pytest.mark.parametrize("padding", [0, FEW])
def test_every_eight_characters_are_found_at_every_place(padding: int) -> None:
    marks = known(SECRET)
    for at in range(len(SECRET) - 7):
        for before in range(padding, padding + 11):
            data = b"." * before + SECRET[at : at + 8].encode() + b"."
            assert marks.find(data) == ["kind #1"], (at, before)
            assert marks.find(data[:-1]) == ["kind #1"], (at, before)
            assert marks.find(data[:-2]) == []
            assert marks.find(data[::-1]) == []


def test_seven_are_not_a_finding() -> None:
    marks = known(SECRET)
    assert [marks.find(SECRET[at : at + 7].encode()) for at in range(len(SECRET) - 6)] == [[]] * 18


def test_each_secret_has_a_number() -> None:
    other = "zY8xW6vU4tS2rQ1p"
    marks = known(SECRET, other, SECRET)
    assert marks.find(f"{other} {SECRET}".encode()) == ["kind #1", "kind #2"]


@pytest.mark.parametrize("plain", ["x" * 40, "password-of-mine", "GRAFANA_PASSWORD", "short"])
def test_words_are_not_looked_for(plain: str) -> None:
    assert known(plain).find(plain.encode()) == []


def test_a_file_that_changed_after_its_test_is_looked_at_again(tmp_path: Path) -> None:
    watch = Watch(known(SECRET))
    watch.folder(tmp_path)
    log = tmp_path / "log"
    log.write_text("started")
    assert watch.search() == []
    log.write_text(f"started with {SECRET}")
    assert [finding.what for finding in watch.search_all()] == ["kind #1"]
    assert watch.search_all() == []


def test_the_service_is_given_marked_secrets_by_default() -> None:
    given = environment(1, {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})
    assert (given["SECRET_KEY"], given["OPENAI_API_KEY"]) == (marked("SECRET_KEY"), marked("OPENAI_API_KEY"))
    assert environment(1, {"SECRET_KEY": "own" * 20})["SECRET_KEY"] == "own" * 20


def test_passwords_in_addresses_are_learned() -> None:
    from apps.tests.marks import MARKS

    password = secrets.token_urlsafe(20)
    learn_environment({"DATABASE_URL": f"postgresql://user:{password}@host/name"})
    assert len(MARKS.find(password[4:12].encode())) == 1
