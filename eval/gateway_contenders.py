"""The contenders of `make bench-gateway` as processes, each one worker, in front of one mock upstream."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello to the world, please."}]}
START_SECONDS = 60
UVICORN = ("-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--port")


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that runs; ``start`` is seconds from its process's begin to its first answer."""

    name: str
    url: str
    pid: int
    start: float

    def rss_mb(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024


@contextmanager
def contenders(folder: Path) -> Iterator[list[Contender]]:
    """The mock itself, the bare gateway, ours with everything on, and the SDK written the usual way."""
    with ExitStack() as stack:

        def run(name: str, *command: str, port: int, **env: str) -> Contender:
            return stack.enter_context(_running(name, command, port, env, folder / f"{name}.log"))

        ports = [_free_port() for _ in range(4)]
        upstream = f"http://127.0.0.1:{ports[0]}/v1"
        mock = run("direct", "-m", "eval.mock_upstream", "--port", str(ports[0]), port=ports[0])
        bare = run("bare", *UVICORN, str(ports[1]), "eval.bare_gateway:app", port=ports[1], UPSTREAM=upstream)
        ours = run("ours", "-m", "apps.api.src.main", port=ports[2], **_everything_on(upstream, ports[2], folder))
        usual = run("usual", *UVICORN, str(ports[3]), "eval.usual_gateway:app", port=ports[3], UPSTREAM=upstream)
        yield [mock, bare, ours, usual]


def _everything_on(upstream: str, port: int, folder: Path) -> dict[str, str]:
    """Limits count every call and never refuse one; ids, access log, breaker, budget and receipts are always on."""
    return {
        "API_HOST": "127.0.0.1",
        "API_PORT": str(port),
        "OPENAI_BASE_URL": upstream,
        "OPENAI_API_KEY": "unused",
        "LOCAL_MODEL": str(folder / "no-model"),
        "LOCAL_FALLBACK": "none",
        "DATA_DIR": str(folder / "data"),
        "RATE_LIMIT_ENABLED": "true",
        "RATE_LIMIT_V1": "1000000000/minute",
        "LOG_LEVEL": "info",
    }


@contextmanager
def _running(name: str, command: tuple[str, ...], port: int, env: dict[str, str], log: Path) -> Iterator[Contender]:
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, *command], env={**os.environ, **env}, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        _wait_for_an_answer(url, process, log)
        yield Contender(name, url, process.pid, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(30)


def _wait_for_an_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(  # noqa: S310 - to 127.0.0.1
        url, json.dumps(ASK).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        try:
            with opener.open(request, timeout=10) as answer:
                answer.read()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"{' '.join(map(str, process.args))} did not start: {log.read_text()[-2000:]}")  # type: ignore[arg-type]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
