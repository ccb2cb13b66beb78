"""Starts the API as a process of its own for the cases, on a free port, with settings of their choice.

Nothing of the caller's own settings or `.env` reaches it: a case must mean the same on every machine.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30
LOCAL_SECONDS = 300
STOP_SECONDS = 15
INHERITED = ("PATH", "HOME", "USERPROFILE", "SYSTEMROOT", "TEMP", "TMP", "LANG", "LD_LIBRARY_PATH", "MODEL_CACHE_DIR")
# No case may depend on the network: the hub is not asked, a cached TinyLlama or the packaged model serves.
DEFAULTS = {
    "ENV": "test",
    "AUTH": "off",
    "LOG_LEVEL": "info",
    "OPENAI_API_KEY": "smoke-key",
    "RATE_LIMIT_ENABLED": "false",
    "RETRY_BACKOFF": "0.05",
    "SHUTDOWN_GRACE": "1",
    "HF_HUB_OFFLINE": "1",
    # in the server's own folder, which goes with it
    "DATA_DIR": "data",
}


class ServerError(Exception):
    """The server did not start; the message ends with its log."""


@contextmanager
def server(settings: Mapping[str, str], upstream: str, log: Path, checkout: Path = ROOT) -> Iterator[str]:
    """The base URL of a running API of ``checkout``, for the time of a ``with`` block; its output goes to ``log``.

    Raises ServerError where it does not answer in time.
    """
    port = free_port()
    given = {"OPENAI_BASE_URL": upstream, **DEFAULTS, **settings}
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | given
    environment |= {"DATA_DIR": "data", "API_HOST": "127.0.0.1", "API_PORT": str(port), "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "apps.api.src.main"]
    with (
        tempfile.TemporaryDirectory() as folder,
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603 - our own command
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            _await_health(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            _stop(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_health(process: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    """Wait until the port is open; the rate limit of /health belongs to the cases."""
    port = int(base_url.rsplit(":", 1)[1])
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    ending = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise ServerError(f"the server did not start (exit code {process.poll()}):\n{ending}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise ServerError(f"the server was still there {STOP_SECONDS} s after SIGTERM") from None


def local_state(base_url: str) -> tuple[str, str]:
    """The local model's state once it is no longer loading, and the reason for it.

    Raises TimeoutError where it loads for ever.
    """
    deadline = time.monotonic() + LOCAL_SECONDS
    while time.monotonic() < deadline:
        state, reason = _local_readiness(httpx2.get(f"{base_url}/ready", timeout=10).json())
        if state != "loading":
            return state, reason
        time.sleep(0.25)
    raise TimeoutError(f"the local model was still loading after {LOCAL_SECONDS} s")


def _local_readiness(body: dict[str, Any]) -> tuple[str, str]:
    for model in body["models"]:
        if model["route"] == "/local/generate":
            return model["status"], model["reason"]
    raise ServerError("/ready does not list the local model")
