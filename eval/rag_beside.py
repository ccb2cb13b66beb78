"""What ingestion costs the other calls: `python -m eval.rag_beside`. A real server, a mock upstream, two rounds.

The latency of GET /healthz and of POST /v1/chat/completions, at a steady pace over one connection each: alone, and
while the same server ingests documents with the real embedding model. Prints a Markdown table; about a minute.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2

from eval.case_server import server
from eval.docstrings import text
from eval.mock_upstream import mock_upstream

PACE = 0.02
DOCUMENT_CHARACTERS = 40_000
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def pace(client: httpx2.AsyncClient, method: str, path: str, body: object, until: asyncio.Event) -> list[float]:
    """Milliseconds of each call: one every PACE seconds, counted from when it was due."""
    took: list[float] = []
    due = time.perf_counter()
    while not until.is_set():
        due += PACE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        began = max(due, time.perf_counter())
        answer = await client.request(method, path, json=body)
        took.append((time.perf_counter() - began) * 1000)
        if answer.status_code != 200:
            raise RuntimeError(f"{path} answered {answer.status_code}: {answer.text[:200]}")
        due = max(due, time.perf_counter() - PACE)
    return took


async def measure(client: httpx2.AsyncClient, until: asyncio.Event) -> dict[str, list[float]]:
    calls = {
        "GET /healthz": ("GET", "/healthz", None),
        "POST /v1/chat/completions": ("POST", "/v1/chat/completions", CHAT),
    }
    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(pace(client, *call, until)) for name, call in calls.items()}
    return {name: task.result() for name, task in tasks.items()}


async def alone(client: httpx2.AsyncClient, seconds: float) -> dict[str, list[float]]:
    until = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, until.set)
    return await measure(client, until)


async def beside(client: httpx2.AsyncClient, seconds: float) -> tuple[dict[str, list[float]], int]:
    """The same while documents are ingested; and how many passages were meanwhile."""
    await client.post("/rag/collections/warm/documents", json={"name": "warm.txt", "text": "Loads the model."})
    await finished(client, 1)
    whole = text(DOCUMENT_CHARACTERS * 40)
    documents = [whole[start : start + DOCUMENT_CHARACTERS] for start in range(0, len(whole), DOCUMENT_CHARACTERS)]
    for number, document in enumerate(documents):
        body = {"name": f"{number}.txt", "text": document}
        (await client.post("/rag/collections/many/documents", json=body)).raise_for_status()
    # the first file is being parsed: what is measured is embedding, with parsing and writing between
    await asyncio.sleep(2)
    before = await passages(client)
    measured = await alone(client, seconds)
    return measured, await passages(client) - before


async def finished(client: httpx2.AsyncClient, documents: int) -> None:
    for _ in range(600):
        answer = await client.get("/rag/collections/warm")
        if answer.status_code == 200 and answer.json()["documents"] >= documents:
            return
        await asyncio.sleep(0.2)
    raise TimeoutError("the embedding model does not load")


async def passages(client: httpx2.AsyncClient) -> int:
    answer = await client.get("/rag/collections/many")
    return int(answer.json()["passages"]) if answer.status_code == 200 else 0


async def run(url: str, seconds: float) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        await alone(client, 2)
        quiet = await alone(client, seconds)
        busy, done = await beside(client, seconds)
    print("| ms | p50 alone | p50 beside | p99 alone | p99 beside | p99 x |\n|---|---|---|---|---|---|")
    for name in quiet:
        a, b = quiet[name], busy[name]
        print(
            f"| {name} | {statistics.median(a):.2f} | {statistics.median(b):.2f} | {at(a, 0.99):.2f} | "
            f"{at(b, 0.99):.2f} | {at(b, 0.99) / at(a, 0.99):.2f} |"
        )
    calls = len(quiet["GET /healthz"])
    print(f"\n{done} passages were ingested in {seconds:.0f} s; {calls} calls of each kind alone.")


def at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15)
    options = parser.parse_args()
    settings = {"LOCAL_FALLBACK": "none", "LOCAL_MODEL": "/no/such/folder"}
    with (
        tempfile.TemporaryDirectory() as folder,
        mock_upstream(tokens=20) as upstream,
        server(settings, upstream.base_url, Path(folder) / "log") as url,
    ):
        asyncio.run(run(url, options.seconds))


if __name__ == "__main__":
    main()
