"""Starts pytest-xdist's workers as forks of one process that has collected the tests.

Each worker collects all tests by itself, and the imports of that take more than half a minute of a core. Here one
process does it, and a worker that is forked from it finds every module in place: its own collection takes a tenth.
A module that starts a thread while it is imported would make the forks unsafe: with one in the collection, after a
failed collection and under coverage the workers start as pytest-xdist starts them, each anew.
"""

import json
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from apps.tests.support import fork_server

LAUNCHER = Path(__file__).with_name("launch_worker.py")
START = """
import json, sys
sys.path[:], *told = json.loads(sys.argv[1])
from apps.tests.collecting import collect_and_fork
collect_and_fork(*told)
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: Sequence[Any]) -> None:
    """Start the process that collects, and have the workers launched from it."""
    if not fork_server.FORKS or len(specs) < 2 or any(not spec.popen or spec.python for spec in specs):
        return
    folder = Path(tempfile.mkdtemp(prefix="workers-"))  # its mode lets nobody else in
    address = folder / "launch"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(address))
    listening.listen(len(specs))
    lifeline, theirs = socket.socketpair()
    arguments = [str(argument) for argument in config.invocation_params.args]
    told = [sys.path, listening.fileno(), theirs.fileno(), str(folder), arguments]
    process = subprocess.Popen(
        [sys.executable, "-c", START, json.dumps(told)],
        cwd=config.invocation_params.dir,
        stdin=subprocess.DEVNULL,
        pass_fds=[listening.fileno(), theirs.fileno()],
    )
    listening.close()
    theirs.close()

    def end() -> None:
        lifeline.close()
        process.wait()
        shutil.rmtree(folder)

    config.add_cleanup(end)
    for spec in specs:
        spec.python = shlex.join([sys.executable, "-I", "-S", str(LAUNCHER), str(address)])
