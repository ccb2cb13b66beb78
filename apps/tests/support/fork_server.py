"""Starts the service's processes as forks of one that has imported it, since most of a start is its imports.

A started process is a real one: it has an environment, a folder, output files and signals of its own, and runs the
module as ``python -m`` does. What it shares with the next one are the imported modules, before anything ran in them.
Where a start itself is tested, processes are started without this.
"""

import atexit
import gc
import importlib
import importlib.util
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FORKS = hasattr(os, "pidfd_open")
MEASURED = "COVERAGE_PROCESS_CONFIG"
"""How make coverage reaches a process."""
ROOT = Path(__file__).parents[3]
START = ("apps.api.src.application", "apps.api.src.http.server", "apps.cli.main")
NEXT = (
    *("aiosqlite", "alembic.command", "alembic.config", "asyncpg", "prometheus_client.openmetrics.exposition"),
    *("rich.console", "rich.traceback", "sqlalchemy.dialects.sqlite.aiosqlite", "sqlalchemy.ext.asyncio"),
    *("structlog", "uvicorn.main", "uvloop"),
)
"""What a start imports, and what the service imports next: its database, migrations, logs and metrics."""
KEPT = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", MEASURED)
_server: socket.socket | None = None
_shared: Path | None = None


class Forked:
    """A process that the server forked, with the methods of a Popen that tests use."""

    def __init__(self, server: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._exit = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises TimeoutExpired after ``timeout`` seconds."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._exit, select.POLLIN)
            if poll.poll(None if timeout is None else max(0.0, timeout) * 1000):
                self.returncode = _ask(self._server, {"reap": self.pid})
                os.close(self._exit)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    outputs: tuple[Path, Path],
    *,
    text: Path = Path(os.devnull),
    files: int = 0,
) -> Forked:
    """Run ``python -m module arguments`` in ``folder``.

    Args:
        text: the file that is read as standard input.
        outputs: the files that standard output and standard error are appended to.
        files: how many files and connections the system gives it; 0 for as many as this process has.
    """
    global _server
    if _server is None:
        _server = _started()
    request = {
        "module": module,
        "arguments": list(arguments),
        "folder": str(folder),
        "environment": environment,
        "text": str(text),
        "outputs": [str(output) for output in outputs],
        "files": files,
    }
    return Forked(_server, _ask(_server, request))


def share(address: Path) -> Callable[[], None]:
    """Start a server that all forks of this process will use; it listens at ``address``.

    Returns what ends it, once they have ended.
    """
    global _shared
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        end = _run(listening)[1]
    _shared = address
    return end


def _started() -> socket.socket:
    if _shared is not None:
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(str(_shared))
        atexit.register(ours.close)
    else:
        ours, end = _run()
        atexit.register(end)
    return ours


def _run(*listening: socket.socket) -> tuple[socket.socket, Callable[[], None]]:
    """Start the server; a connection with it, and what closes that and waits for the server's end."""
    ours, theirs = socket.socketpair()
    descriptors = [theirs.fileno(), *(one.fileno() for one in listening)]
    process = subprocess.Popen(
        [sys.executable, "-m", "apps.tests.support.fork_server", *map(str, descriptors)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name in KEPT},
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(60)

    return ours, end


def _ask(server: socket.socket, request: dict[str, Any]) -> int:
    server.sendall(json.dumps(request).encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        if not (more := server.recv(100)):
            raise RuntimeError("the fork server has ended")
        answer += more
    return int(answer)


def _serve(connection: socket.socket, *listening: socket.socket) -> dict[str, Any]:
    """Fork at each request, until every connection has ended; returns in each fork, with what it is to be."""
    sockets = {one.fileno(): one for one in (connection, *listening)}
    requests = {connection.fileno(): connection.makefile("rb")}
    poll = select.poll()
    for descriptor in sockets:
        poll.register(descriptor, select.POLLIN)
    while requests:
        for descriptor, _ in poll.poll():
            if descriptor not in requests:
                accepted, _ = sockets[descriptor].accept()
                sockets[accepted.fileno()], requests[accepted.fileno()] = accepted, accepted.makefile("rb")
                poll.register(accepted, select.POLLIN)
            elif line := requests[descriptor].readline():
                request = json.loads(line)
                if "reap" in request:
                    answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
                else:
                    answer = os.fork()
                    if answer == 0:
                        for one in sockets:
                            os.close(one)
                        for reader in requests.values():
                            reader.detach()
                        for each in sockets.values():
                            each.detach()
                        return dict(request)
                sockets[descriptor].sendall(b"%d\n" % answer)
            else:
                poll.unregister(descriptor)
                requests.pop(descriptor).close()
                sockets.pop(descriptor).close()
    sys.exit()


def _become(request: dict[str, Any]) -> None:
    """Take the place of a new process: its files, its environment and its folder, then run its module."""
    writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    opened = [(request["text"], os.O_RDONLY), *((output, writing) for output in request["outputs"])]
    for number, (path, flags) in enumerate(opened):
        descriptor = os.open(path, flags, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    if request["files"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["files"], request["files"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if "TZ" in os.environ:
        time.tzset()
    sys.argv = [request["module"], *request["arguments"]]
    sys.path[0] = request["folder"]
    sys.path.insert(1, str(ROOT))
    sys.modules.pop(request["module"], None)  # it runs anew, and what it imports is there
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    importlib.import_module("apps.tests.support.measuring").follow_tasks()
    for name in START:
        importlib.import_module(name)
    for name in NEXT:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    _become(_serve(*(socket.socket(fileno=int(number)) for number in sys.argv[1:])))
