"""Workers that are forks of the process that collected behave as workers that were started anew."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apps.tests.support.fork_server import FORKS

pytestmark = [pytest.mark.long, pytest.mark.skipif(not FORKS, reason="no worker is a fork here")]

ROOT = Path(__file__).parents[2]
ANEW = "a worker collects the tests anew: "
INNER = """
import os, random, sys, threading
import pytest
from apps.tests.support.ports import free_port

COLLECTED_BY = os.getpid()
AT_THE_IMPORT = sys.stderr

@pytest.fixture(autouse=True)
def told(request):
    own = [COLLECTED_BY, os.getpid(), os.getppid(), random.random(), free_port(), os.environ["PYTEST_XDIST_WORKER"]]
    with open("told", "a") as file:
        file.write(" ".join(map(str, own)) + "\\n")
    print("a library's words", file=AT_THE_IMPORT, flush=True)
    assert AT_THE_IMPORT.fileno() >= 0

@pytest.mark.parametrize("number", range(6))
def test_it(number):
    assert number != 3, "the third"
"""


def run(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """In two workers, as the tests of the house are run."""
    (folder / "test_inner.py").write_text(source)
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    plugins = [
        "-p",
        "no:schemathesis",
        "-p",
        "apps.tests.plugin",
        "-p",
        "apps.tests.workers",
        "--import-mode=importlib",
    ]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(folder), *plugins, "-n2", "."],
        cwd=folder,
        env={**outer, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_one_process_collects_for_all_and_each_worker_is_a_process_of_its_own(tmp_path: Path) -> None:
    done = run(tmp_path, INNER)
    assert "1 failed, 5 passed" in done.stdout, done.stdout + done.stderr
    assert "AssertionError: the third" in done.stdout
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    collected_by, workers, parents, chances, ports, names = zip(*told, strict=True)
    assert set(collected_by) == set(parents) and len(set(parents)) == 1
    assert len(set(workers)) == 2 and set(names) == {"gw0", "gw1"}
    assert len(set(chances)) == len(set(ports)) == 6, "no worker repeats another one's random numbers or ports"
    assert not Path(f"/proc/{parents[0]}").exists()


def test_a_worker_that_dies_is_reported_and_another_one_goes_on(tmp_path: Path) -> None:
    done = run(tmp_path, INNER.replace('assert number != 3, "the third"', "number == 3 and os._exit(9)"))
    assert re.search(r"worker 'gw\d' crashed while running 'test_inner.py::test_it\[3\]'", done.stdout), done.stdout
    assert "1 failed, 5 passed" in done.stdout
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    assert len({line[2] for line in told}) == 1, "the other one is a fork, too"


def test_a_thread_of_the_collection_has_each_worker_collect_anew(tmp_path: Path) -> None:
    thread = "threading.Thread(target=threading.Event().wait, name='of-a-module', daemon=True).start()\n"
    done = run(tmp_path, INNER + thread)
    assert done.stderr.count(f"{ANEW}the collection has started threads: of-a-module\n") == 2
    assert "1 failed, 5 passed" in done.stdout, done.stdout + done.stderr
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    assert all(collected_by == worker for collected_by, worker, *_ in told)


def test_a_collection_that_fails_is_reported_as_ever(tmp_path: Path) -> None:
    done = run(tmp_path, INNER + "import nothing_of_this_name\n")
    assert done.stderr.count(f"{ANEW}the collection ended with ") == 2
    assert "ModuleNotFoundError: No module named 'nothing_of_this_name'" in done.stdout
    assert done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
