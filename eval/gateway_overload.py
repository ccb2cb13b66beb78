"""What 200 clients do to a gateway with 8 places and a queue of 8: goodput, refusals, and /health meanwhile.

python -m eval.gateway_overload [--clients N] [--seconds S]. Starts a mock upstream and the API with a routing file. The
unloaded best is what as many clients as there are places get. A refused client waits a little, as clients do.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import yaml

from eval.mock_upstream import mock_upstream

PLACES = 8
MODEL = "slow-10"
PAUSE = 0.2


@dataclass(slots=True)
class Tally:
    """Statuses of the calls, refusals that named no time, and seconds that /health took."""

    statuses: Counter[int] = field(default_factory=Counter)
    without_time: int = 0
    health: list[float] = field(default_factory=list)


async def load(url: str, clients: int, seconds: float) -> Tally:
    tally, ends = Tally(), time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(
            *(_client(session, url, ends, tally, stream=i % 2 == 0) for i in range(clients)),
            _watch(session, url, ends, tally),
        )
    return tally


async def _client(session: aiohttp.ClientSession, url: str, ends: float, tally: Tally, *, stream: bool) -> None:
    body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    while time.monotonic() < ends:
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            data = await answer.read()
        if time.monotonic() < ends or answer.status != 200:
            tally.statuses[answer.status if b'"error"' not in data or answer.status != 200 else -1] += 1
        if answer.status != 200:
            tally.without_time += "Retry-After" not in answer.headers
            await asyncio.sleep(PAUSE)


async def _watch(session: aiohttp.ClientSession, url: str, ends: float, tally: Tally) -> None:
    while time.monotonic() < ends:
        began = time.perf_counter()
        async with session.get(f"{url}/health") as answer:
            await answer.read()
        tally.health.append(time.perf_counter() - began)
        await asyncio.sleep(0.02)


@contextmanager
def gateway(upstream: str, folder: Path) -> Iterator[str]:
    """The base URL of an API whose only provider has so many places."""
    file = folder / "gateway.yaml"
    provider = {"base_url": upstream, "max_concurrency": PLACES, "queue_size": PLACES}
    models = {MODEL: {"targets": [{"provider": "narrow", "model": MODEL}]}}
    file.write_text(yaml.safe_dump({"providers": {"narrow": provider}, "models": models}), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    given = {
        "API_HOST": "127.0.0.1",
        "API_PORT": str(port),
        "GATEWAY_CONFIG": str(file),
        "DEFAULT_MODEL": MODEL,
        "LOCAL_MODEL": str(folder / "none"),
        "LOCAL_FALLBACK": "none",
        "RATE_LIMIT_ENABLED": "false",
    }
    command = [sys.executable, "-m", "apps.api.src.main"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **given}, stdout=log, stderr=log)  # noqa: S603
    try:
        _wait(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _wait(port: int) -> None:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("the API did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, mock_upstream() as mock, gateway(mock.base_url, Path(name)) as url:
        best = asyncio.run(load(url, PLACES, given.seconds))
        crowd = asyncio.run(load(url, given.clients, given.seconds))
    health = sorted(crowd.health)
    figures = {
        "unloaded answers/s": round(best.statuses[200] / given.seconds, 1),
        "loaded answers/s": round(crowd.statuses[200] / given.seconds, 1),
        "goodput of unloaded": round(crowd.statuses[200] / best.statuses[200], 3),
        "statuses": dict(crowd.statuses),
        "refusals without Retry-After": crowd.without_time,
        "health p95 s": round(health[int(len(health) * 0.95)], 4),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
