"""Part of every run of the tests: after each one, what the service wrote meanwhile is searched for secrets.

A finding fails the test that it came with; it names the place and the kind of the secret, never the secret. With
pytest-xdist each worker searches what its own tests made, and the process that started the workers adds them up.
"""

import logging
import os
import random
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from apps.api.src.observability.logs import LineFormatter
from apps.api.src.observability.request_line import Redactor
from apps.tests.marks import MARKS, PROVIDERS_VARIABLE, marked
from apps.tests.support.measuring import follow_tasks
from apps.tests.support.postgres_server import PROGRAMS, PostgresServer, postgres_server
from apps.tests.support.worldly import set_world_aside
from apps.tests.watch import WATCH, Finding

REPORTS = Path(__file__).parents[2] / "reports"
CLIENTS = Path(__file__).parents[1] / "api/tests/clients"
NO_AUTHORITY = Path(__file__).with_name("support") / "no_authority.pem"
AT_THE_END: list[Finding] = []
WORKER_OUTPUT = "secrets"
WORKERS: list[dict[str, Any]] = []
LONG_SECONDS = 900
KEEPER = pytest.StashKey["LogKeeper"]()


class LogKeeper(logging.Handler):
    """Keeps lines as the service would write them, though it knows of no secret by itself and redacts only forms."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(LineFormatter(Redactor(), as_json=True))

    def emit(self, record: logging.LogRecord) -> None:
        WATCH.took(f"log of {record.name} in this process", self.format(record))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--order-seed", type=int, default=None, help="Run files, and the tests of each file, in a random order"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two workers for each core, since tests wait half of their time: for an upstream, a process, a browser."""
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or 2 * (os.cpu_count() or 1))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Clients are imported where their part of the tests runs: that takes longer than many tests."""
    others = config.option.markexpr == "long" or "not clients" in config.option.markexpr
    return True if collection_path == CLIENTS and others else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a random order the tests of a file stay together, since they share what the file sets up; workers agree.

    What is long may take long: its bound of time only ends a hang.
    """
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_SECONDS))
    seed = config.getoption("--order-seed")
    if seed is None:
        return
    chance = random.Random(seed)
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    shuffled = list(files.values())
    chance.shuffle(shuffled)
    for of_one_file in shuffled:
        chance.shuffle(of_one_file)
    items[:] = [item for of_one_file in shuffled for item in of_one_file]


def pytest_configure(config: pytest.Config) -> None:
    # no example fails for being slow; before the test files, whose own settings begin with these
    hypothesis.settings.register_profile(
        "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("patient")
    os.environ[PROVIDERS_VARIABLE] = marked("provider's key")
    follow_tasks()
    # nothing stands between a test and its service
    set_world_aside(os.environ)
    # each client of httpx2 reads the certificates of the machine anew, for 50 ms
    os.environ["SSL_CERT_FILE"] = str(NO_AUTHORITY)
    # torch's threads sleep while they wait: there are more of them than cores, and others have work to do
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # what the service says by default; libraries as pytest has them
    logging.getLogger("apps").setLevel(logging.INFO)
    config.stash[KEEPER] = LogKeeper()
    WATCH.folder(REPORTS)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of this process; each makes databases of its own in it."""
    if PROGRAMS is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def _folders_of_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Searched at the end; those of tests are, when they are over."""
    yield
    for folder in tmp_path_factory.getbasetemp().iterdir():
        if folder.is_dir() and not folder.is_symlink():
            WATCH.folder(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whoever configures logging in this process takes all handlers away."""
    root, keeper = logging.getLogger(), item.config.stash[KEEPER]
    if keeper not in root.handlers:
        root.addHandler(keeper)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Behind the fixtures' ends: then processes have gone, and their logs and databases are whole."""
    report = yield
    if report.when == "teardown":
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        if folder is not None:
            WATCH.folder(folder)
        for name, text in report.sections:
            # the log is taken by the keeper, in the service's own form
            if "log" not in name:
                WATCH.took(name, text)
        if found := WATCH.search():
            report.outcome = "failed"
            report.longrepr = "\n".join(filter(None, [report.longreprtext, told(found)]))
            report.sections = [(name, _shown(text)) for name, text in report.sections]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    AT_THE_END.extend(WATCH.search_all())
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        found = [[finding.where, finding.what] for finding in AT_THE_END]
        output[WORKER_OUTPUT] = {"found": found, "total": asdict(WATCH.total), "secrets": len(MARKS)}
    if AT_THE_END:
        # no test that is run again takes this back
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Add what a worker found at its end; a worker that crashed has sent nothing, and xdist reports the crash."""
    if output := getattr(node, "workeroutput", {}).get(WORKER_OUTPUT):
        AT_THE_END.extend(Finding(where, what) for where, what in output["found"])
        WORKERS.append(output)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if AT_THE_END:
        terminalreporter.section("secrets", red=True)
        terminalreporter.write_line(told(AT_THE_END))
    totals = [asdict(WATCH.total), *(output["total"] for output in WORKERS)]
    total = {name: sum(one[name] for one in totals) for name in totals[0]}
    known = len(MARKS) + sum(output["secrets"] for output in WORKERS)
    terminalreporter.write_line(
        f"secrets: {known} looked for in {total['pieces']} outputs ({total['bytes'] / 2**20:.1f} MiB, "
        f"{total['skipped']} files too large) in {total['seconds']:.1f} s"
    )


def _shown(text: str) -> str:
    """What pytest would print of a failed test's outputs."""
    return "[withheld: a secret is in it]" if MARKS.find(text.encode("utf-8", "surrogatepass")) else text


def told(found: list[Finding]) -> str:
    return "\n".join([f"A secret was written where none belongs ({len(found)}):", *map(str, found)])
