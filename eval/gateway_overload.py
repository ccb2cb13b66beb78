"""What 200 clients do to a gateway with 8 places and a queue of 8: goodput, refusals, and /health meanwhile.

python -m eval.gateway_overload [--clients N] [--seconds S]. Starts a mock upstream and the API with a routing file. The
unloaded best is what as many clients as there are places get. A refused client waits a little, as clients do. All calls
of a run are alike: where long and short ones mix, the crowd gets another mix than the few, and nothing compares.
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

PLACES = 8
MODEL = "slow-50"
PAUSE = 0.5


@dataclass(slots=True)
class Tally:
    """Statuses of the calls, refusals that named no time, and seconds that /health took."""

    statuses: Counter[int] = field(default_factory=Counter)
    without_time: int = 0
    health: list[float] = field(default_factory=list)


async def load(url: str, clients: int, seconds: float, *, stream: bool) -> Tally:
    tally, ends = Tally(), time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(
            *(_client(session, url, ends, tally, stream=stream) for _ in range(clients)),
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
def mock() -> Iterator[str]:
    """The base URL of a mock in a process of its own: it must not wait for the clients here."""
    command = [sys.executable, "-m", "eval.mock_upstream", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            yield (process.stdout or sys.stdin).readline().split()[-1]
        finally:
            process.terminate()


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
        "DATA_DIR": str(folder / "data"),
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


def _figures(best: Tally, crowd: Tally, seconds: float) -> dict[str, object]:
    health = sorted(crowd.health)
    return {
        "unloaded answers/s": round(best.statuses[200] / seconds, 1),
        "loaded answers/s": round(crowd.statuses[200] / seconds, 1),
        "goodput of unloaded": round(crowd.statuses[200] / best.statuses[200], 3),
        "statuses": dict(crowd.statuses),
        "refusals without Retry-After": crowd.without_time,
        "health p95 s": round(health[int(len(health) * 0.95)], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, mock() as upstream, gateway(upstream, Path(name)) as url:
        for stream in (False, True):
            best = asyncio.run(load(url, PLACES, given.seconds, stream=stream))
            crowd = asyncio.run(load(url, given.clients, given.seconds, stream=stream))
            print(json.dumps({"streamed": stream, **_figures(best, crowd, given.seconds)}, indent=2))


if __name__ == "__main__":
    main()
