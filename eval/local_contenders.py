"""What `make bench-local` measures: this project, llama.cpp and OpenVINO GenAI, servers with OpenAI's chat API."""

import asyncio
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from apps.core.process import available_cpus
from apps.local.engine.batching.shape import read_shape
from apps.tests.support.ports import free_port
from apps.tests.support.processes import ROOT
from eval.bench_client import Server, ask, said
from eval.case_server import server as api_server

PEERS = ROOT / ".cache/peers/bin/python"
PROGRAMS = ROOT / "eval/local_peers"
START_SECONDS = 300
CONTEXT = 2048
OURS, THEN, LLAMA_CPP, OPENVINO = "this project", "then", "llama.cpp", "OpenVINO GenAI"


class NotHere(Exception):
    """A contender cannot be had on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that answers. ``seconds`` from its start to a first token; ``note`` says what it computes with.

    ``weights_bytes`` is what a step reads of its weights.
    """

    server: Server
    pid: int
    seconds: float
    note: str
    weights_bytes: int

    def peak_bytes(self) -> int:
        """The most memory that its process has had."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model as a folder, and as a file for the peers."""

    name: str
    folder: Path
    gguf: Callable[[], Path]
    cache_dir: Path

    def parameters(self) -> int:
        return read_shape(self.folder).parameters


Opening = Callable[[Checkpoint, int], AbstractContextManager[Contender]]


@contextmanager
def ours(checkpoint: Checkpoint, slots: int, checkout: Path = ROOT) -> Iterator[Contender]:
    """This project, as it is in ``checkout``."""
    settings = {
        "LOCAL_MODEL": str(checkpoint.folder),
        "LOCAL_SLOTS": str(slots),
        "MODEL_CACHE_DIR": str(checkpoint.cache_dir),
        "MAX_PROMPT_CHARS": "100000",
        "LOG_LEVEL": "warning",
    }
    with tempfile.TemporaryDirectory() as logs:
        began = time.perf_counter()
        with api_server(settings, "http://127.0.0.1:9", Path(logs) / "server.log", checkout) as url:
            while (state := local_state(url))["status"] == "loading":
                time.sleep(0.02)
            if state["status"] != "ready":
                raise NotHere(f"the local model is {state['status']}: {state['reason']}")
            details = state["details"]
            pid = listener(int(url.rpartition(":")[2]))
            to = Server(url, state["name"])
            yield answering(to, pid, began, str(details["kernels"]), int(details["weights_bytes"]))


@contextmanager
def program(name: str, checkpoint: Checkpoint, slots: int) -> Iterator[Contender]:
    """A server of the peers' environment, which says its address in its first line."""
    if not PEERS.is_file():
        raise NotHere("the peers' environment is not there (make .cache/peers/.done)")
    file = checkpoint.gguf()
    command = [str(PEERS), str(PROGRAMS / name), str(file), str(slots), str(available_cpus())]
    began = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        # one that hangs at its start must not hang the benchmark
        watchdog = threading.Timer(START_SECONDS, process.kill)
        watchdog.start()
        try:
            url, _, note = process.stdout.readline().strip().partition("\t")
            watchdog.cancel()
            if not url.startswith("http"):
                raise NotHere(f"{name} ended at its start (exit code {process.wait(10)})")
            yield answering(Server(url), process.pid, began, note, file.stat().st_size)
        finally:
            watchdog.cancel()
            process.kill()


@contextmanager
def llama_cpp(checkpoint: Checkpoint, slots: int) -> Iterator[Contender]:
    """LLAMA_SERVER, a llama-server of one's own, or else the prebuilt one of the peers' environment."""
    own = os.environ.get("LLAMA_SERVER")
    if own is None:
        with program("llama_cpp_server.py", checkpoint, slots) as contender:
            yield contender
        return
    file, port, threads = checkpoint.gguf(), free_port(), str(available_cpus())
    command = [own, "-m", str(file), "--port", str(port), "-np", str(slots), "-c", str(CONTEXT * slots)]
    began = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - the operator's own server
        [*command, "-t", threads, "-tb", threads], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            while not healthy(url):
                if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    raise NotHere(f"{own} did not start (exit code {process.poll()})")
                time.sleep(0.05)
            yield answering(Server(url), process.pid, began, f"LLAMA_SERVER={own}", file.stat().st_size)
        finally:
            process.kill()


CONTENDERS: dict[str, Opening] = {
    OURS: ours,
    LLAMA_CPP: llama_cpp,
    OPENVINO: partial(program, "openvino_server.py"),
}


def answering(server: Server, pid: int, began: float, note: str, weights_bytes: int) -> Contender:
    asyncio.run(ask(server, said("Hi"), 2))
    return Contender(server, pid, time.perf_counter() - began, note, weights_bytes)


def local_state(url: str) -> dict[str, Any]:
    """What /ready says of the local model."""
    models: list[dict[str, Any]] = httpx2.get(f"{url}/ready", timeout=10).json()["models"]
    return next(model for model in models if model["route"] == "/local/generate")


def healthy(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def listener(port: int) -> int:
    """The process that listens on ``port``."""
    wanted = f":{port:04X} 00000000:0000 0A"
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines() if wanted in line]
    inode = sockets[0][9]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) == f"socket:[{inode}]" for link in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    raise NotHere(f"no process listens on port {port}")
