"""A real redis-server on a free port, for as long as a test needs it."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NotUp

from apps.api.tests.processes import free_port

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed (Debian: apt-get install redis-server)"
)


@dataclass(slots=True)
class RedisServer:
    url: str
    process: subprocess.Popen[bytes]

    def mute(self) -> None:
        """It keeps its connections and takes new ones, and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def speak(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.speak()
        self.process.terminate()
        self.process.wait(10)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    server = RedisServer(f"redis://127.0.0.1:{port}", process)
    try:
        with Redis(port=port) as client:
            _wait_for(client)
        yield server
    finally:
        server.stop()


def _wait_for(client: Redis) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            client.ping()
        except NotUp:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError("redis-server did not start")
