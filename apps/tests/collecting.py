"""The process that collects for all workers, and the workers that it forks (see workers.py).

It stands apart from the plugin, which pytest wants to import itself.
"""

import gc
import os
import select
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from apps.tests.support import fork_server

OF_LANCEDB = "LanceDBBackgroundEventLoop"
"""It has nothing to do while tests are collected, and LanceDB starts another one in each fork."""
STARTS_SERVICES = "apps.tests.support.processes"
LATER = {
    "apps.agents.tests": "pydantic_ai.models.openai",
    "apps.local.tests": "transformers.models.llama.modeling_llama",
}
"""What the tests of a package import while they run, for seconds in each worker."""
# the last of each counts: in this process alone, without running anything; and with the outputs themselves, since a
# library that takes sys.stderr at its import (mcp) would keep a file of pytest's that is closed after the collection
COLLECT = ("-n0", "--collect-only", "-s", "-qq", "--no-header")


def _collect(arguments: Sequence[str]) -> str | None:
    """Import all that a worker's collection imports; returns why no worker can be forked now, if so."""
    gc.disable()  # nothing that is imported goes again
    with _silence():
        code = pytest.main([*arguments, *COLLECT])
    gc.enable()
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return f"the collection ended with {code!r}"
    for tests, name in LATER.items():
        if tests in sys.modules and find_spec(name.partition(".")[0]):
            import_module(name)
    if "hypothesis" in sys.modules:
        _draw_first_example()
    names = {thread.name for thread in threading.enumerate()} - {threading.current_thread().name, OF_LANCEDB}
    return f"the collection has started threads: {', '.join(sorted(names))}" if names else None


def _draw_first_example() -> None:
    """What hypothesis finds out for its first one takes seconds: all characters, and the constants of all modules."""
    from hypothesis import given, settings
    from hypothesis.strategies import text

    @settings(max_examples=1, database=None)
    @given(text())
    def draw(_: str) -> None:
        """Nothing is tested."""

    draw()


@contextmanager
def _silence() -> Iterator[None]:
    """What pytest prints while it collects, the workers' own collection prints, too."""
    outputs = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, output in enumerate(outputs, 1):
            os.dup2(output, number)
        for descriptor in (*outputs, nowhere):
            os.close(descriptor)


def _serve(listening: socket.socket, lifeline: socket.socket, refusal: str | None) -> socket.socket | None:
    """Fork a worker for each launcher until the lifeline ends; returns in each fork, with its launcher's connection."""
    children: set[int] = set()
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    while all(descriptor != lifeline.fileno() for descriptor, _ in poll.poll()):
        connection, _ = listening.accept()
        connection.sendall((refusal or "").encode() + b"\n")
        if not refusal:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the thread, from Python and from LanceDB
                child = os.fork()
            if child == 0:
                listening.close()
                lifeline.close()
                return connection
            children.add(child)
        connection.close()
    for child in children:
        # one that has ended stays a zombie until here, so that its number is no other process's
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return None


def _become_worker(connection: socket.socket) -> None:
    """Take the launcher's place: its files, a main module like its own, and what it was to run."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    # what multiprocessing looks at to start a process like this one: there is no program to import again
    main = sys.modules["__main__"] = ModuleType("__main__")
    sys.argv = ["-c"]
    # the source that execnet sends to any Python that it starts
    exec(eval(sys.stdin.readline()), main.__dict__)  # noqa: S102, S307


def collect_and_fork(listening: int, lifeline: int, folder: str, arguments: Sequence[str]) -> None:
    """The process that collects, as `START` runs it, and each of its forks.

    Args:
        listening: the descriptor at which launchers ask for workers.
        lifeline: the descriptor that ends with the tests.
        folder: where the workers' common fork server may listen.
        arguments: pytest's.
    """
    at, tests = socket.socket(fileno=listening), socket.socket(fileno=lifeline)
    refusal = _collect(arguments)
    shares = STARTS_SERVICES in sys.modules and not refusal
    end = fork_server.share(Path(folder, "services")) if shares else None
    gc.collect()
    gc.freeze()  # no collection of a worker looks at what all share, which would copy it
    if (connection := _serve(at, tests, refusal)) is not None:
        # the launcher ends when this process does, which has the other end of this connection
        _become_worker(connection)
    elif end is not None:
        end()
