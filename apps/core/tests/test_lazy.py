"""Heavy vendors: fifty threads at the first use of each get it whole, by one import."""

import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from apps.core.process import import_aside, import_once

ROOT = Path(__file__).parents[3]
# where each is imported first, a name that was seen missing from a half-made package or is as deep, and what it needs
FIRST_USES = {
    "lancedb": ("from apps.rag.index.database import load_tables as first", "from lancedb.query import MatchQuery"),
    "pydantic_ai": ("from apps.agents.roster import load_loop as first", "from pydantic_ai import Agent"),
    "mcp server": (
        "from apps.api.src.mcp.routes import load_protocol_server as first",
        "from mcp.server.lowlevel import Server",
    ),
    "mcp client": ("from apps.agents.mcp_connection import load_client as first", "from mcp import Client"),
    "sqlalchemy": (
        "from apps.operations.database import load_engines as first",
        "from sqlalchemy.ext.asyncio import create_async_engine",
    ),
    "alembic": ("from apps.operations.engines import load_alembic as first", "from alembic.command import upgrade"),
}
NEEDS_LOCAL = {"lancedb"}
PROGRAM = """
import sys, threading
sys.setswitchinterval(1e-5)
from apps.core.process import import_once
{define}
runs, faults, gate = [], [], threading.Barrier(50)
def counted():
    runs.append(1)
    first()
def use():
    gate.wait()
    try:
        import_once(counted)
        {use}
    except BaseException as error:
        faults.append(repr(error))
threads = [threading.Thread(target=use) for _ in range(50)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(runs), faults)
"""


@pytest.mark.parametrize("vendor", FIRST_USES)
@pytest.mark.long
def test_fifty_threads_at_the_first_use_import_it_once_and_whole(vendor: str) -> None:
    if vendor in NEEDS_LOCAL and find_spec(vendor) is None:
        pytest.skip("requirements-local.txt is not installed")
    define, use = FIRST_USES[vendor]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(define=define, use=use)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1 []"), done.stderr[-2000:]


def test_what_could_not_be_imported_is_tried_again() -> None:
    tries: list[int] = []

    def missing() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ImportError("not there yet")
        return "names"

    with pytest.raises(ImportError):
        import_once(missing)
    assert (import_once(missing), import_once(missing)) == ("names", "names")
    assert len(tries) == 2


async def test_the_event_loop_hands_it_to_a_thread() -> None:
    seen: list[threading.Thread] = []

    def note() -> str:
        seen.append(threading.current_thread())
        return "names"

    assert (await import_aside(note), await import_aside(note)) == ("names", "names")
    assert len(seen) == 1
    assert seen[0] is not threading.current_thread()


@pytest.mark.parametrize(("given", "expected"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_of_torch_sleep_while_they_wait_unless_the_operator_says_otherwise(
    given: dict[str, str], expected: str
) -> None:
    program = (
        "import os; from apps.core.process import import_once; import_once(dict); print(os.environ['OMP_WAIT_POLICY'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=given, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
