"""API_WORKERS: several processes of the API on one port, and one with the local model that they share.

This process starts them, starts one that dies again, hands signals on and waits for their ends; it serves nothing and
imports neither the app nor a model. Each worker has a listening socket of its own on the port, which stays open here
while the worker is started again: who connects meanwhile waits, and is not refused.
"""

import asyncio
import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from apps.api.src.http.connections import BACKLOG, listen
from apps.api.src.observability.logs import configure_logging
from apps.core.settings import Settings

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "apps.api.src.main")
# a child that lives so long was well; one that dies so often before that will not get well by itself
WELL_SECONDS = 10.0
MOST_QUICK_DEATHS = 5
LONGEST_PAUSE = 5.0
# the ends of answers after the grace period, and of a process after those
LAST_SECONDS = 10.0
PR_SET_PDEATHSIG = 1
MEMORY = "memory"
# opened here, since a child between fork and exec must not
# Windows has none, where workers are refused with a reason
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Restarts:
    """How long to wait before a child that has died is started again, by how long it lived."""

    def __init__(self) -> None:
        self._quick = 0

    def pause(self, lived: float) -> float | None:
        """Seconds; None where it has died too often right after its start."""
        self._quick = 0 if lived >= WELL_SECONDS else self._quick + 1
        if self._quick >= MOST_QUICK_DEATHS:
            return None
        return min(LONGEST_PAUSE, 0.1 * 4.0 ** max(0, self._quick - 1))


@dataclass(slots=True)
class Child:
    """One process: what it is called, what its environment has besides, and the descriptors that it inherits."""

    name: str
    environment: Mapping[str, str]
    descriptors: tuple[int, ...] = ()
    command: Sequence[str] = COMMAND
    restarts: Restarts = field(default_factory=Restarts)
    process: asyncio.subprocess.Process | None = None


class Supervisor:
    """Keeps ``workers`` and ``model`` running until a signal ends them: the model last, since workers need it."""

    def __init__(
        self, workers: Sequence[Child], model: Child | None, grace: float, ended: Callable[[], None] = lambda: None
    ) -> None:
        self._workers = workers
        self._model = model
        self._grace = grace
        self._on_end = ended
        self._ending: asyncio.Event | None = None
        self._failed = False

    async def run(self) -> int:
        """The exit status: 0 after a signal, 1 where a child cannot be kept running."""
        self._ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._hand_on, signal.SIGHUP)
        model = [asyncio.create_task(self._keep(self._model))] if self._model is not None else []
        workers = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        await self._ending.wait()
        self._on_end()
        await self._end(self._workers, workers)
        if self._model is not None:
            await self._end([self._model], model)
        return int(self._failed)

    async def _keep(self, child: Child) -> None:
        assert self._ending is not None  # noqa: S101 - for the type checker: it runs within `run`
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                child.process = await asyncio.create_subprocess_exec(
                    *child.command,
                    env={**os.environ, **child.environment},
                    pass_fds=child.descriptors,
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
            except (OSError, subprocess.SubprocessError) as error:
                # no process or no memory is left: the same as one that ends right after its start
                log.error("%s cannot be started: %s", child.name, error)
                status = -1
            else:
                log.info("%s runs as process %d", child.name, child.process.pid)
                if self._ending.is_set():
                    # the signal came before there was a process to hand it to
                    child.process.terminate()
                status = await child.process.wait()
            if self._ending.is_set():
                return
            pause = child.restarts.pause(time.monotonic() - began)
            if pause is None:
                log.error("%s has ended %d times right after its start: all end", child.name, MOST_QUICK_DEATHS)
                self._failed = True
                self._ending.set()
                return
            log.warning("%s has ended with status %d and is started again", child.name, status)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ending.wait()

    async def _end(self, children: Sequence[Child], tasks: Sequence[asyncio.Task[None]]) -> None:
        _signal(children, signal.SIGTERM)
        _, late = await asyncio.wait(tasks, timeout=self._grace + LAST_SECONDS)
        if late:
            log.error("%d processes have not ended in time and are killed", len(late))
            _signal(children, signal.SIGKILL)
            await asyncio.wait(late)

    def _hand_on(self, number: int) -> None:
        _signal(self._workers, number)


def supervise(settings: Settings) -> int:
    """Run API_WORKERS processes until a signal ends them. Returns the exit status."""
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "fork"):
        sys.exit("API_WORKERS: this system has no Unix sockets; start one process")
    if settings.api_uds or settings.api_fd is not None:
        sys.exit("API_WORKERS: several processes listen on API_HOST and API_PORT, not on API_UDS or API_FD")
    configure_logging(settings)
    folder = Path(tempfile.mkdtemp(prefix="genai-"))
    listeners = shared_listeners(settings.api_host, settings.api_port, settings.api_workers)

    def close() -> None:
        for listener in listeners:
            listener.close()

    try:
        workers, model = children(settings, folder, listeners)
        return asyncio.run(Supervisor(workers, model, settings.shutdown_grace, close).run())
    finally:
        close()
        shutil.rmtree(folder, ignore_errors=True)


def children(settings: Settings, folder: Path, listeners: Sequence[socket.socket]) -> tuple[list[Child], Child | None]:
    """The workers, and the process that has the local model unless LOCAL_URL names one; they meet in ``folder``."""
    shared = {"API_WORKERS": str(settings.api_workers)}
    if settings.rate_limit_storage.startswith(MEMORY):
        shared["RATE_LIMIT_STORAGE"] = f"file://{folder / 'counts'}"
    model = None
    if not settings.local_url:
        at = folder / "model.sock"
        environment = {"SERVE_ROLE": "model", "API_UDS": str(at), "API_WORKERS": "1", "API_FD": ""}
        model = Child("The process of the local model", environment)
        shared["LOCAL_URL"] = f"http+unix://{quote(str(at), safe='')}"
    workers = []
    for index, listener in enumerate(listeners):
        own = {**shared, "API_FD": str(listener.fileno()), "API_PEERS": f"{index}@{folder}"}
        workers.append(Child(f"Worker {index + 1}", own, (listener.fileno(),)))
    return workers, model


def shared_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """As many listening sockets on one address. Exits with one line where it is taken or not this machine's.

    On Linux the kernel shares new connections out among them; elsewhere they are one socket under several descriptors.
    """
    first = listen(host, port)
    if sys.platform != "linux":
        return [first, *(first.dup() for _ in range(count - 1))]
    family, address = first.family, first.getsockname()
    first.close()
    made = []
    for _ in range(count):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        made.append(listener)
    for listener in made:
        listener.listen(BACKLOG)
        listener.set_inheritable(True)
    return made


def _signal(among: Sequence[Child], number: int) -> None:
    for child in among:
        if child.process is not None and child.process.returncode is None:
            with suppress(ProcessLookupError):
                child.process.send_signal(number)


def _die_with_parent() -> None:
    """In the child, before it runs: end with SIGTERM where this process is killed."""
    assert LIBC is not None  # noqa: S101 - for the type checker: it is called on Linux alone
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
