"""The contenders of `make bench-gateway` as processes, each one worker, in front of one mock upstream.

Each starts in an empty folder and without the settings of this shell, so that neither they nor a `.env` decide what is
measured.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from apps.core.settings import Settings
from eval.gateway_calls import Call

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("direct", "bare", "usual", "ours", "off", "on")
APPS = {"bare": "eval.bare_gateway:app", "usual": "eval.usual_gateway:app"}
START_SECONDS = 60
UVICORN = ("-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--port")
MANY = "1000000000"
CREATE_KEY = ("-m", "apps.cli.main", "keys", "create", "--name", "bench", "--rpm", MANY, "--tpm", MANY)
# beyond the defaults; no setting turns off the ledger, metrics, ids, routing, breaker and receipts
SWITCHES: Mapping[str, Mapping[str, str]] = {
    "on": {"AUTH": "on", "CACHE_STORAGE": "mem://"},
    "off": {"AUTH": "off", "RATE_LIMIT_ENABLED": "false", "LOG_LEVEL": "warning"},
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that runs; ``start`` is seconds from its process's begin to its first answer."""

    name: str
    url: str
    pid: int
    start: float
    key: str = field(default="", repr=False)

    def rss_mb(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def ask(self, call: Call) -> Mapping[str, str]:
        """The headers of an answer to ``call``, their names in lower case."""
        return _ask(self.url, self.key, call)


@dataclass(frozen=True, slots=True)
class _Server:
    """What to start: a command of the checkout ``root``, which listens on ``port``."""

    name: str
    command: tuple[str, ...]
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    root: Path = ROOT


@contextmanager
def contenders(
    folder: Path, chosen: Sequence[str], against: Path | None = None
) -> Iterator[tuple[Contender, list[Contender]]]:
    """The mock, and those of NAMES that were ``chosen`` with ``then``, the checkout ``against``, behind them."""
    with ExitStack() as stack:
        port = _free_port()
        mock = stack.enter_context(
            _running(_Server("direct", ("-m", "eval.mock_upstream", "--port", str(port)), port), folder)
        )
        upstream = mock.url.removesuffix("/chat/completions")
        running = [mock] if "direct" in chosen else []
        for name in chosen:
            if name != "direct":
                running.append(stack.enter_context(_running(_server(name, upstream, folder, ROOT), folder)))
        if against:
            running.append(stack.enter_context(_running(_server("then", upstream, folder, against), folder)))
        yield mock, running


def _server(name: str, upstream: str, folder: Path, root: Path) -> _Server:
    port = _free_port()
    if name in APPS:
        return _Server(name, (*UVICORN, str(port), APPS[name]), port, {"UPSTREAM": upstream})
    # limits count every call and never refuse one
    env = {
        "API_HOST": "127.0.0.1",
        "API_PORT": str(port),
        "OPENAI_BASE_URL": upstream,
        "OPENAI_API_KEY": "unused",
        "LOCAL_MODEL": str(folder / "no-model"),
        "LOCAL_FALLBACK": "none",
        "DATA_DIR": str(folder / f"{name}-data"),
        "RATE_LIMIT_V1": f"{MANY}/minute",
        **SWITCHES.get(name, {}),
    }
    return _Server(name, ("-m", "apps.api.src.main"), port, env, root)


@contextmanager
def _running(server: _Server, folder: Path) -> Iterator[Contender]:
    log, place = folder / f"{server.name}.log", folder / server.name
    place.mkdir()
    key = _new_key(server, place) if server.env.get("AUTH") == "on" else ""
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, *server.command], cwd=place, env=_environment(server), stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
        _wait_for_an_answer(url, key, process, log)
        yield Contender(server.name, url, process.pid, time.perf_counter() - began, key)
    finally:
        process.terminate()
        process.wait(30)


def _new_key(server: _Server, place: Path) -> str:
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, *CREATE_KEY],
        cwd=place,
        env=_environment(server),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"keys create failed: {done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def _environment(server: _Server) -> dict[str, str]:
    return {**without_settings(os.environ), **server.env, "PYTHONPATH": str(server.root)}


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.lower() not in Settings.model_fields}


def _wait_for_an_answer(url: str, key: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        try:
            _ask(url, key, Call("plain", streamed=False))
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{' '.join(map(str, process.args))} did not start: {log.read_text()[-2000:]}")  # type: ignore[arg-type]


def _ask(url: str, key: str, call: Call) -> Mapping[str, str]:
    request = urllib.request.Request(url, call.body().encode(), call.headers(key))  # noqa: S310 - to 127.0.0.1
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        answer.read()
        return {name.lower(): value for name, value in answer.getheaders()}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
