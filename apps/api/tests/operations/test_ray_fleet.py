"""`genai fleet up` on a real Ray: replicas come with the calls, go without failing one, drain, and are replaced."""

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from apps.tests.marks import marked
from apps.tests.support.fleet import fleet_file
from apps.tests.support.ports import free_port
from apps.tests.support.processes import environment
from apps.tests.support.serving import serving_models
from apps.tests.watch import WATCH

ROOT = Path(__file__).parents[4]
SECRET = marked("FLEET_SECRET of Ray")
# Ray may have an environment of its own
PYTHON = sys.executable if importlib.util.find_spec("ray") else os.environ.get("RAY_PYTHON", "")
# Ray alone takes a minute to start on a machine that has other work
HANG_SECONDS = 420.0
CALLERS = 8
# machines of a cluster, each a raylet of one core, for as long as its standard input is open
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
machine = {"num_cpus": 1, "object_store_memory": 100_000_000}
cluster = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
for _ in range(int(sys.argv[1]) - 1):
    cluster.add_node(**machine)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not PYTHON, reason="needs Ray: pip install -r requirements-fleet.txt, here or where RAY_PYTHON says"
    ),
]


class Fleet:
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.list = f"http://127.0.0.1:{port}/replicas"

    async def lists(self, count: int) -> bool:
        return len(await asyncio.to_thread(self.addresses)) == count

    async def lists_others_than(self, address: str) -> bool:
        there = await asyncio.to_thread(self.addresses)
        return bool(there) and address not in there

    def addresses(self) -> list[str]:
        try:
            with urllib.request.urlopen(self.list, timeout=10) as answer:  # noqa: S310 - our own process
                return list(json.load(answer))
        except OSError:
            assert self.process.poll() is None, "the fleet has ended"
            return []


@contextmanager
def cluster_of(machines: int, folder: Path, variables: dict[str, str]) -> Iterator[dict[str, str]]:
    """``variables``, and RAY_ADDRESS where there is more than one machine."""
    if machines == 1:
        yield variables
        return
    with (folder / "log-of-cluster").open("ab") as log:
        process = subprocess.Popen(
            [PYTHON, "-c", CLUSTER, str(machines)],
            cwd=ROOT,
            env={**variables, "RAY_raylet_start_wait_time_s": "300", "RAY_worker_niceness": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield variables | {"RAY_ADDRESS": process.stdout.readline().decode().strip()}
    finally:
        process.stdin.close()
        process.wait(HANG_SECONDS)
        process.stdout.close()


@contextmanager
def fleet_up(folder: Path, machines: int, most: int) -> Iterator[Fleet]:
    port, log = free_port(), folder / "log-of-ray"
    packaged = {"LOCAL_MODEL": "no/such-model", "LOCAL_FALLBACK": "packaged", "LOCAL_SLOTS": "2"}
    own = {"FLEET_SECRET": SECRET, "GENAI_PYTHON": sys.executable, "SHUTDOWN_GRACE": "60"}
    variables = environment(port, {**packaged, **own, "DATA_DIR": str(folder / "data")})
    command = [PYTHON, "-m", "infra.ray.up", "--most", str(most), "--port", str(port), "--downscale-delay", "10"]
    with cluster_of(machines, folder, variables) as given:
        with log.open("ab") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=given, stdout=output, stderr=output)
        try:
            yield Fleet(process, port)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(HANG_SECONDS)
            WATCH.took_file(log)


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not await reached():  # noqa: ASYNC110 - what it asks is another process
            await asyncio.sleep(0.1)


async def whole(client: httpx2.AsyncClient, url: str, text: str, tokens: int = 24) -> None:
    """Ask for a streamed answer; fails unless it comes to its end."""
    # other beginnings go to other replicas
    messages = [{"role": "system", "content": f"You tell {text}."}, {"role": "user", "content": "Begin."}]
    body = {"model": "fleet", "messages": messages, "max_tokens": tokens, "stream": True}
    answer = await client.post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.text.rstrip().endswith("data: [DONE]") and '"error"' not in answer.text, answer.text


async def computed(client: httpx2.AsyncClient, address: str) -> int:
    """Steps that the engine of a replica has computed."""
    answer = await client.get(f"{address}/v1/capacity", headers={"Authorization": f"Bearer {SECRET}"})
    return sum(model.get("steps") or 0 for model in answer.json()["models"])


async def answers(client: httpx2.AsyncClient, url: str) -> bool:
    """Whether the gateway has found a replica that answers."""
    body = {"model": "fleet", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    return (await client.post(f"{url}/v1/chat/completions", json=body)).status_code == 200


def process_at(address: str) -> int:
    """The process of the replica that listens there."""
    wanted = {b"SERVE_ROLE=model", f"API_PORT={address.rpartition(':')[2]}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # one that has ended meanwhile
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                return int(folder.name)
    raise AssertionError(f"no process is at {address}")


async def steps_are(client: httpx2.AsyncClient, addresses: list[str], least: int) -> bool:
    return all([await computed(client, address) >= least for address in addresses])


@pytest.mark.parametrize(("machines", "most"), [(1, 2), (3, 3)])
async def test_ray_adds_replicas_under_load_ends_them_without_a_failed_call_and_drains(
    machines: int, most: int, tmp_path: Path
) -> None:
    with fleet_up(tmp_path, machines, most) as fleet:
        await until(lambda: fleet.lists(1))
        file = fleet_file(tmp_path, f"list+{fleet.list}")
        with serving_models(gateway_config=file, fleet_secret=SECRET) as url:
            async with httpx2.AsyncClient(timeout=HANG_SECONDS) as client:
                await _grow_and_shrink(client, url, fleet, most)
                await _lose(client, url, fleet)
                running = [asyncio.create_task(whole(client, url, f"last {number}", 200)) for number in range(2)]
                [address] = fleet.addresses()
                before = await computed(client, address)
                await until(lambda: steps_are(client, [address], before + 4))
                fleet.process.send_signal(signal.SIGTERM)
                await asyncio.gather(*running)
                assert await asyncio.to_thread(fleet.process.wait, HANG_SECONDS) == 0
                with pytest.raises(httpx2.ConnectError):
                    await client.get(f"{address}/health")


async def _lose(client: httpx2.AsyncClient, url: str, fleet: Fleet) -> None:
    """Ray starts another replica where the process of one has been killed."""
    [killed] = fleet.addresses()
    os.kill(process_at(killed), signal.SIGKILL)
    await until(lambda: fleet.lists_others_than(killed))
    await until(lambda: answers(client, url))


async def _grow_and_shrink(client: httpx2.AsyncClient, url: str, fleet: Fleet, most: int) -> None:
    """From one replica to ``most`` while calls wait, and back while one caller goes on. A call that fails ends this."""
    ended = [asyncio.Event() for _ in range(CALLERS)]

    async def caller(number: int) -> None:
        count = 0
        while not ended[number].is_set():
            count += 1
            await whole(client, url, f"story {count} of {number}")

    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(caller(number))
        await until(lambda: fleet.lists(most))
        # the gateway has found the new ones, too
        await until(lambda: steps_are(client, fleet.addresses(), 1))
        for event in ended[1:]:
            event.set()
        await until(lambda: fleet.lists(1))
        ended[0].set()
