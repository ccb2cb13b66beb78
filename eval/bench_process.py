"""A service of its own for a benchmark, on cores that it names."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

from eval.case_server import free_port

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 300
QUIET = {"ENV": "test", "AUTH": "off", "LOG_LEVEL": "warning", "RATE_LIMIT_ENABLED": "false", "HF_HUB_OFFLINE": "1"}


@contextmanager
def process(settings: Mapping[str, str], cores: Sequence[int] | None = None) -> Iterator[str]:
    """The base URL of a service of its own, on these cores alone where they are given."""
    port = free_port()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "MODEL_CACHE_DIR") if name in os.environ}
    address = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "PYTHONPATH": str(ROOT), "SHUTDOWN_GRACE": "1"}
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        own = {**kept, **QUIET, "DATA_DIR": "data", **settings, **address}
        pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores is not None else []
        command = [*pinned, sys.executable, "-m", "apps.api.src.main"]
        with subprocess.Popen(command, cwd=folder, env=own, stdout=log, stderr=log) as running:  # noqa: S603 - ours
            try:
                _await_ready(f"http://127.0.0.1:{port}", running, Path(folder) / "log")
                yield f"http://127.0.0.1:{port}"
            finally:
                running.terminate()
                with suppress(subprocess.TimeoutExpired):
                    running.wait(20)
                running.kill()


def _await_ready(url: str, running: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and running.poll() is None:
        with suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/health", timeout=10).status_code == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"did not start: {log.read_text(errors='replace')[-2000:]}")
