"""Hours of ordinary traffic with faults, and whether the service grows: memory, file descriptors, threads.

    python -m eval.soak [--minutes 30] [--callers 8] [--faults 0.05] [--local]

The local model's caches take their memory as prompts fill them: with --local the longest prompts are asked first.
Callers ask one after the other, with prompts of 5 to 300 words, streamed or not; some leave early, and some models
fail. Once in ten seconds the process is measured. The slope is that of a straight line through the second half, when
the caches are full; the run fails where memory grows by more than --slope MB in ten minutes, or the rest at all.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from apps.tests.support.processes import running
from eval.mock_upstream import mock_upstream

REPORT = Path(__file__).parents[1] / "reports" / "soak.json"
FAULTS = ("fault-500", "fault-rst", "fault-cut", "fault-badjson", "fault-error", "fault-nofinish", "fault-429-1")
WORDS = [f"word{number}" for number in range(500)]
PROMPT_WORDS = (5, 300)
# several times the caches of prompts that the local model has: a slot's each, and two
FILLING = 24
LONGEST_WORDS = PROMPT_WORDS[1] * 11 // 10
EVERY = 10.0
LEAVES_EARLY = 0.05
TEN_MINUTES = 600.0
SPARE = 8
PACKAGED = "SmolLM2-135M-Instruct"
LOADING_SECONDS = 300.0
# of the calls that nobody left and no fault was made for
MOST_UNANSWERED = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """Of the service's process, ``seconds`` after the start."""

    seconds: float
    megabytes: float
    descriptors: int
    threads: int
    calls: int


def measure(pid: int, seconds: float, calls: int) -> Sample:
    """Reads /proc, so Linux alone can be soaked."""
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    return Sample(
        round(seconds, 1),
        round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2),
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
        calls,
    )


def wait_for_local(url: str) -> None:
    """Until the local model answers. Raises TimeoutError."""
    # on /v1 the upstream would take its name as long as it is not loaded
    body = json.dumps({"prompt": "hi", "max_tokens": 1}).encode()
    request = Request(f"{url}/local/generate", body, {"Content-Type": "application/json"})  # noqa: S310 - own
    ends = time.monotonic() + LOADING_SECONDS
    while time.monotonic() < ends:
        try:
            with urlopen(request, timeout=LOADING_SECONDS):  # noqa: S310 - own
                return
        except HTTPError as error:
            error.close()
            time.sleep(1.0)
    raise TimeoutError("the local model does not answer")


def slope(samples: Sequence[Sample]) -> float:
    """MB in ten minutes, by least squares."""
    times = [sample.seconds for sample in samples]
    sizes = [sample.megabytes for sample in samples]
    middle, mean = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((at - middle) ** 2 for at in times)
    if not spread:
        raise ValueError("the samples are of one moment")
    return sum((at - middle) * (size - mean) for at, size in zip(times, sizes, strict=True)) / spread * TEN_MINUTES


def growth(samples: Sequence[Sample]) -> tuple[int, int]:
    """Descriptors and threads: how many more the last quarter has at most than the one in the middle."""
    quarter = max(1, len(samples) // 4)
    middle, last = samples[2 * quarter : 3 * quarter] or samples[:1], samples[-quarter:]
    return (
        max(sample.descriptors for sample in last) - max(sample.descriptors for sample in middle),
        max(sample.threads for sample in last) - max(sample.threads for sample in middle),
    )


class Callers:
    """What ``outcomes`` counts: statuses, `left` and `broken`."""

    def __init__(self, port: int, faults: float, local: bool, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._port = port
        self._faults = faults
        self._local = local
        self._random = random.Random(seed)  # noqa: S311 - traffic, no secret

    async def call_until(self, end: float) -> None:
        while time.monotonic() < end:
            await self._call(self._random.randint(*PROMPT_WORDS))

    async def fill_caches(self, calls: int, at_once: int) -> None:
        """Ask longer prompts than there will be, each another one."""
        for _ in range(0, calls, at_once):
            await asyncio.gather(*(self._call(LONGEST_WORDS) for _ in range(at_once)))

    async def _call(self, words: int) -> None:
        draw = self._random
        prompt = " ".join(draw.choices(WORDS, k=words))
        body: dict[str, object]
        if draw.random() < self._faults:
            body = {"model": draw.choice(FAULTS)}
        elif self._local:
            body = {"model": PACKAGED, "max_tokens": 16}
        else:
            body = {"model": draw.choice(("slow-2", "mock"))}
        stream, leaves = draw.random() < 0.5, draw.random() < LEAVES_EARLY
        whole = {**body, "messages": [{"role": "user", "content": prompt}], "stream": stream}
        data = json.dumps(whole).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            self.outcomes["broken"] += 1
            return
        try:
            writer.write(head.encode() + data)
            first = await reader.read(64)
            if leaves:
                self.outcomes["left"] += 1
                return
            while await reader.read(65536):
                pass
            self.outcomes[first[9:12].decode("ascii", "replace") or "broken"] += 1
        except OSError:
            self.outcomes["broken"] += 1
        finally:
            writer.transport.abort()


async def soak(
    pid: int, port: int, seconds: float, callers: int, faults: float, local: bool
) -> tuple[list[Sample], Counter[str]]:
    """The samples of a run, and what came of its calls."""
    if local:
        await Callers(port, 0.0, local, seed=2).fill_caches(FILLING, callers)
    began = time.monotonic()
    asking = Callers(port, faults, local, seed=1)
    tasks = [asyncio.create_task(asking.call_until(began + seconds)) for _ in range(callers)]
    samples: list[Sample] = []
    every = min(EVERY, seconds / 12)
    while not all(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=every)
        samples.append(measure(pid, time.monotonic() - began, asking.outcomes.total()))
    for task in tasks:
        task.result()
    return samples, asking.outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--faults", type=float, default=0.05, help="share of calls whose upstream fails")
    parser.add_argument("--slope", type=float, default=1.0, help="most MB of growth in ten minutes")
    parser.add_argument("--local", action="store_true", help="the packaged local model answers")
    options = parser.parse_args(arguments)
    local = (
        {
            # a name that no hub has: a folder that is not there would be an error, and no reason to fall back
            "LOCAL_MODEL": f"no-such-org/{PACKAGED}",
            "LOCAL_FALLBACK": "packaged",
            "LOCAL_QUEUE_SIZE": "64",
            "LOCAL_QUEUE_TIMEOUT": "600",
        }
        if options.local
        else {}
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        mock_upstream(tokens=20) as upstream,
        running(Path(folder), OPENAI_BASE_URL=upstream.base_url, RETRY_BACKOFF="0.01", **local) as service,
    ):
        port = int(service.url.rpartition(":")[2])
        if options.local:
            wait_for_local(service.url)
        run = soak(service.process.pid, port, options.minutes * 60, options.callers, options.faults, options.local)
        samples, outcomes = asyncio.run(run)
    second_half = samples[len(samples) // 2 :]
    rise, (files, threads) = slope(second_half), growth(samples)
    first, last = samples[0], samples[-1]
    answered = outcomes["200"] / max(1, sum(outcomes.values()) - outcomes["left"])
    expected = 1.0 - options.faults - MOST_UNANSWERED
    report = {
        "minutes": options.minutes,
        "callers": options.callers,
        "faults": options.faults,
        "local": options.local,
        "outcomes": dict(outcomes),
        "slope_mb_in_10_minutes": round(rise, 2),
        "descriptors_grew": files,
        "threads_grew": threads,
        "megabytes": [first.megabytes, last.megabytes],
        "descriptors": [first.descriptors, last.descriptors],
        "threads": [first.threads, last.threads],
        "samples": [asdict(sample) for sample in samples],
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{sum(outcomes.values())} calls {dict(outcomes)}")
    print(f"memory {first.megabytes} -> {last.megabytes} MB, {rise:.2f} MB in 10 minutes over the second half")
    print(f"descriptors {first.descriptors} -> {last.descriptors}, threads {first.threads} -> {last.threads}")
    if answered < expected:
        print(f"only {answered:.0%} of the calls were answered: this says nothing of the service's memory")
    return int(rise > options.slope or files > SPARE or threads > SPARE or answered < expected)


if __name__ == "__main__":
    sys.exit(main())
