"""A real redis-server on a free port, for as long as a test needs it."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NotUp

from apps.tests.marks import marked
from apps.tests.support.ports import free_port
from apps.tests.support.waiting import until
from apps.tests.watch import WATCH

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
        if self.process.poll() is None:
            _hear(self.url)
        self.process.terminate()
        self.process.wait(90)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    port = free_port()
    process = start_redis(port, folder)
    server = RedisServer(f"redis://:{_password()}@127.0.0.1:{port}", process)
    try:
        with Redis.from_url(server.url) as client:
            assert until(lambda: _answers(client)), "redis-server did not start"
        yield server
    finally:
        server.stop()


def _answers(client: Redis) -> bool:
    try:
        client.ping()
    except NotUp:
        return False
    return True


def start_redis(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """With a password; what it hands out of itself is as it lies there, and not packed."""
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    options += ["--requirepass", _password(), "--rdbcompression", "no"]
    return subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)


def _password() -> str:
    return marked("password of Redis")


def _hear(url: str) -> None:
    """Every key with all that it holds."""
    with Redis.from_url(url) as client:
        for key in client.scan_iter():
            WATCH.took("Redis", key + b" " + (client.dump(key) or b""))
