"""Clients that leave: what worked for them stops, and nothing of them is left behind."""

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest

from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, Step
from apps.operations.engines import POOL_SIZE
from apps.tests.support.reading import ask, connect, read_events
from apps.tests.support.serving import serving_models, upstream_at
from apps.tests.support.waiting import HANG_SECONDS, until
from eval.mock_upstream import MockUpstream

CLIENTS = 100
LONGEST_WAIT = 0.5


class WatchedModel(ScriptedModel):
    """Says its loop, whose tasks a test counts."""

    loop: asyncio.AbstractEventLoop

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()


def dripping(request: ChatRequest) -> list[Step]:
    """An answer of an hour; a prompt of "quiet" says nothing before its end."""
    prompt = request.messages[0].content
    if prompt == "warm":
        return [Delta(finish_reason="stop")]
    words: list[Step] = [Delta("word "), 0.02]
    return [3600.0] if prompt == "quiet" else [*words * 180_000, Delta(finish_reason="stop")]


@pytest.fixture
def model() -> WatchedModel:
    return WatchedModel(dripping)


@pytest.fixture
def url(mock: MockUpstream, model: WatchedModel) -> Iterator[str]:
    with serving_models(local=model, **upstream_at(mock.base_url, read_timeout=3600)) as base:
        yield base


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def leave(connection: socket.socket) -> None:
    """Close as a killed process does (FIN), or as a lost one (RST)."""
    if random.random() < 0.5:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def call_and_leave(url: str, request: bytes, begun: threading.Event | None) -> None:
    """Leave when ``begun`` is set, or at a random time."""
    connection = connect(url)
    connection.sendall(request)
    if begun:
        assert begun.wait(HANG_SECONDS)
    else:
        time.sleep(random.random() * LONGEST_WAIT)
    leave(connection)


def calls() -> list[bytes]:
    """Every kind of call, a quarter each: both models, streamed and not."""
    kinds = [
        ask("/generate?stream=true", model="slow-3600000"),
        ask("/generate", model="slow-3600000"),
        ask("/generate?stream=true", model="fault-hang"),
        ask("/generate", model="fault-hang"),
        ask("/local/generate?stream=true"),
        ask("/local/generate"),
        ask("/local/generate?stream=true", "quiet"),
        ask("/local/generate", "quiet"),
    ]
    return [kinds[number % len(kinds)] for number in range(CLIENTS)]


def resting(loop: asyncio.AbstractEventLoop) -> int:
    """How many tasks there are while nothing is asked: the fewest of fifty looks (some come and go by themselves)."""
    fewest = len(asyncio.all_tasks(loop))
    for _ in range(50):
        time.sleep(0.02)
        fewest = min(fewest, len(asyncio.all_tasks(loop)))
    return fewest


@pytest.mark.long
def test_a_hundred_clients_cut_at_random_leave_nothing_behind(
    url: str, mock: MockUpstream, model: WatchedModel
) -> None:
    with httpx2.Client(timeout=90) as warm:
        warm.post(f"{url}/generate", json={"prompt": "hi"})
        warm.post(f"{url}/local/generate?stream=true", json={"prompt": "warm"}, timeout=90)
    tasks = resting(model.loop)
    mock.reset()
    before = descriptors(), threading.active_count()
    begun = threading.Event()
    clients = [
        threading.Thread(target=call_and_leave, args=(url, request, begun if number % 3 else None))
        for number, request in enumerate(calls())
    ]
    for client in clients:
        client.start()
    # of the calls of the local model most wait for a slot
    assert until(lambda: model.open > 0 and mock.stats()["open"] > CLIENTS // 4)
    begun.set()
    for client in clients:
        client.join()
    assert until(lambda: model.open == 0 and mock.stats()["open"] == 0)
    assert until(lambda: len(asyncio.all_tasks(model.loop)) <= tasks)
    # connections of the database's pool stay open: each has a thread, and three files
    most = before[0] + 3 * POOL_SIZE, before[1] + POOL_SIZE
    assert until(lambda: descriptors() <= most[0] and threading.active_count() <= most[1])
    assert mock.stats()["aborted"] > CLIENTS // 4


@pytest.mark.parametrize("path", ["/local/generate", "/local/generate?stream=true"])
@pytest.mark.parametrize("prompt", ["hi", "quiet"])
@pytest.mark.long
def test_one_client_that_leaves_ends_its_work(path: str, prompt: str, url: str, model: WatchedModel) -> None:
    with connect(url) as connection:
        connection.sendall(ask(path, prompt))
        assert until(lambda: model.open == 1)
    assert until(lambda: model.open == 0)


def test_a_client_that_leaves_with_half_a_body_sent_is_no_crash(
    url: str, model: WatchedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with connect(url) as connection:
        connection.sendall(ask("/local/generate")[:-5])
        time.sleep(0.1)
    assert until(lambda: any("/local/generate" in record.getMessage() for record in caplog.records))
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    assert model.requests == []


class Endless(Sequence[Step]):
    """Deltas of 16 KiB without an end, a step of the loop after each; counts how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: object) -> Step:  # type: ignore[override]
        self.taken += 1
        return Delta("x" * 16384) if self.taken % 2 else 0.0


def test_slow_readers_are_bounded_in_memory() -> None:
    scripts = [Endless() for _ in range(8)]
    model = ScriptedModel(lambda request: scripts[int(str(request.messages[0].content))])
    with serving_models(local=model) as url:
        clients = []
        for number in range(len(scripts)):
            client = connect(url)
            client.sendall(ask("/local/generate?stream=true", str(number)))
            clients.append(client)
        assert until(lambda: len(model.requests) == len(scripts))
        assert until(lambda: stopped(scripts))
        for client in clients:
            client.close()
        assert until(lambda: model.open == 0)
    # what one connection holds: the kernel's buffers of both sides, and uvicorn's 64 KiB
    assert max(script.taken for script in scripts) * 8192 < 32 * 1024 * 1024


def stopped(scripts: list[Endless]) -> bool:
    taken = [script.taken for script in scripts]
    time.sleep(0.3)
    return taken == [script.taken for script in scripts]


def test_calls_at_the_same_time_get_their_own_answers(url: str) -> None:
    async def at_once() -> list[str]:
        async with httpx2.AsyncClient(timeout=90) as client:

            async def one(number: int) -> str:
                body = {"prompt": f"number {number}", "model": "echo"}
                response = await client.post(f"{url}/generate", params={"stream": bool(number % 2)}, json=body)
                return read_events(response.content).text if number % 2 else str(response.json()["response"])

            return list(await asyncio.gather(*map(one, range(40))))

    assert asyncio.run(at_once()) == [f"number {number}" for number in range(40)]
