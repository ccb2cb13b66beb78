"""A fleet of real processes under load, while they are killed, frozen and told to end."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from apps.tests.marks import marked
from apps.tests.support.fleet import fleet_file
from apps.tests.support.ports import free_port
from apps.tests.support.processes import environment
from apps.tests.support.serving import serving_models
from apps.tests.support.waiting import HANG_SECONDS, until

pytestmark = pytest.mark.long

SECRET = marked("FLEET_SECRET of processes")
CALLERS = 16
KILLS = 10
# ends a call that hangs
DEADLINE = 90.0
# what a caller may be told when its replica dies: that there is none, that it is full, or that the answer broke off
TYPED = {"MODEL_UNAVAILABLE", "OVERLOADED", "UPSTREAM_ERROR", "INTERNAL_ERROR", "TIMEOUT"}


class ReplicaProcess:
    """One replica on a port of its own, which can be killed and started again there."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        own = {"SERVE_ROLE": "model", "FLEET_SECRET": SECRET, "REPLICA_TOKEN_MS": "5", "SHUTDOWN_GRACE": "20"}
        with (self._folder / f"log-{self.port}").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "apps.tests.support.replica_program"],
                cwd=self._folder,
                env=environment(self.port, own),
                stdout=log,
                stderr=log,
            )

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def again(self) -> None:
        self.process = self._start()


@contextmanager
def fleet(folder: Path, count: int) -> Iterator[list[ReplicaProcess]]:
    replicas = [ReplicaProcess(folder) for _ in range(count)]
    try:
        for replica in replicas:
            assert until(replica.answers)
        yield replicas
    finally:
        for replica in replicas:
            replica.process.send_signal(signal.SIGCONT)
            replica.kill()


async def ask(client: httpx2.AsyncClient, url: str, text: str, stream: bool) -> str:
    """``whole``, or the code of the one error that the call ended with."""
    body = {"model": "fleet", "messages": [{"role": "user", "content": text}], "max_tokens": 200, "stream": stream}
    answer = await client.post(f"{url}/v1/chat/completions", json=body)
    if answer.status_code != 200:
        return str(answer.json()["error"]["error_code"])
    if not stream:
        assert answer.json()["choices"][0]["message"]["content"] == text
        return "whole"
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    errors = [json.loads(event)["error"] for event in events if event.startswith("{") and '"error"' in event]
    if errors:
        assert len(errors) == 1 and events.index(next(e for e in events if '"error"' in e)) >= len(events) - 2
        return str(errors[0].get("error_code") or errors[0]["code"])
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    said = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert said == text, (said, text)
    return "whole"


async def test_replicas_are_killed_under_load_and_every_answer_is_whole_or_one_typed_error(tmp_path: Path) -> None:
    with fleet(tmp_path, 3) as replicas:
        file = fleet_file(tmp_path, *(replica.url for replica in replicas))
        with serving_models(gateway_config=file, fleet_secret=SECRET) as url:
            outcomes = await _load(url, replicas)
    assert set(outcomes) <= TYPED | {"whole"}, outcomes
    assert outcomes["whole"] > 100, outcomes
    # most calls have no token yet, or are on another replica: those are answered
    assert outcomes["whole"] > 0.9 * sum(outcomes.values()), outcomes


async def _load(url: str, replicas: list[ReplicaProcess]) -> Counter[str]:
    """How the calls ended, until a replica has been killed KILLS times and calls were answered after the last one."""
    outcomes: Counter[str] = Counter()
    over = asyncio.Event()

    async def caller(number: int) -> None:
        count = 0
        async with httpx2.AsyncClient(timeout=DEADLINE) as client:
            while not over.is_set():
                count += 1
                text = f"caller {number} asks for the time {count}" * (1 + count % 3)
                outcomes[await ask(client, url, text, stream=bool(count % 2))] += 1

    async def more(calls: int) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            wanted = outcomes["whole"] + calls
            while outcomes["whole"] < wanted:  # noqa: ASYNC110 - it is the callers that count
                await asyncio.sleep(0.05)

    async def killer() -> None:
        try:
            for turn in range(KILLS):
                await more(100)
                for replica in replicas:
                    assert await asyncio.to_thread(until, replica.answers)
                victim = replicas[turn % len(replicas)]
                await asyncio.to_thread(victim.kill)
                victim.again()
            await more(100)
        finally:
            over.set()

    await asyncio.gather(killer(), *(caller(number) for number in range(CALLERS)))
    return outcomes


async def test_a_frozen_replica_is_left_out_and_given_up(tmp_path: Path) -> None:
    with fleet(tmp_path, 2) as (frozen, well):
        file = fleet_file(tmp_path, frozen.url, well.url)
        with serving_models(gateway_config=file, fleet_secret=SECRET) as url:
            async with httpx2.AsyncClient(timeout=DEADLINE) as client:
                assert await ask(client, url, "hello", stream=False) == "whole"
                running = [
                    asyncio.create_task(ask(client, url, f"call {number} " * 15, stream=bool(number % 2)))
                    for number in range(8)
                ]
                await asyncio.sleep(0.2)
                frozen.process.send_signal(signal.SIGSTOP)
                outcomes = Counter(await asyncio.gather(*running))
                assert set(outcomes) <= {"whole", "UPSTREAM_ERROR"} and outcomes["whole"] >= 4, outcomes
                assert await ask(client, url, "again", stream=True) == "whole"


async def test_one_that_is_told_to_end_answers_what_it_has_and_gets_nothing_new(tmp_path: Path) -> None:
    with fleet(tmp_path, 2) as (ending, well):
        file = fleet_file(tmp_path, ending.url, well.url)
        with serving_models(gateway_config=file, fleet_secret=SECRET) as url:
            async with httpx2.AsyncClient(timeout=DEADLINE) as client:
                running = [
                    asyncio.create_task(ask(client, url, f"call {number} " * 20, stream=bool(number % 2)))
                    for number in range(8)
                ]
                await asyncio.sleep(0.2)
                ending.process.send_signal(signal.SIGTERM)
                more = [await ask(client, url, f"more {number}", stream=True) for number in range(10)]
                assert Counter([*more, *await asyncio.gather(*running)]) == {"whole": 18}
                # uvicorn ends by the signal that it was sent
                assert await asyncio.to_thread(ending.process.wait, 90) in (0, -signal.SIGTERM)
                assert await ask(client, url, "still", stream=False) == "whole"
