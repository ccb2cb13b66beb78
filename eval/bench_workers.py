"""What a second API process costs and brings: a part of `make bench-fleet`.

One service with API_WORKERS=1 and one with 2 run beside each other and are asked in turns, each round in the other
order. A call's cost is the CPU time of all processes of a service, at a fixed rate far below what either carries: a
process that is busy takes several events in one turn of its loop, so what a call costs at the limit depends on how far
away that is. Both services have one core, wrk and the mock upstream the other: two processes on two cores would share
each core's caches with those two, and one would not.

What two processes can answer from the cache is calculated from that cost (a core each), and measured too, where wrk
must share the two cores with them.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from eval.bench_process import READY_SECONDS, process
from eval.mock_upstream import mock_upstream
from eval.process_cpu import await_calm, cpu_seconds, pin, pin_process, started_with

CONNECTIONS = 16
PAUSE_MS = 40
ROUND_SECONDS = 4
IDLE_SECONDS = 10
NO_MODEL = {"LOCAL_MODEL": "/none", "LOCAL_FALLBACK": "none"}
US = 1e6


@dataclass(frozen=True, slots=True)
class Service:
    """One that runs, with its first process."""

    url: str
    root: int


def workers(rounds: int) -> list[str]:
    """CPU a call with one process and with two, and answers from the cache a second."""
    with ExitStack() as stack:
        upstream = stack.enter_context(mock_upstream(tokens=6))
        kept = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        services = {}
        for count in (1, 2):
            settings = {"API_WORKERS": str(count), "OPENAI_BASE_URL": upstream.base_url, "OPENAI_API_KEY": "bench"}
            settings |= {**NO_MODEL, "CACHE_STORAGE": f"disk://{kept}/{count}"}
            url = stack.enter_context(process(settings))
            services[count] = Service(url, started_with("API_PORT", url.rpartition(":")[2]))
        for service in services.values():
            await_calm(service.root, READY_SECONDS)
        cores = os.sched_getaffinity(0)
        for service in services.values():
            pin(service.root, {max(cores)})
        pin_process(os.getpid(), {min(cores)})
        made = _in_turns(services, kept, max(2 * rounds, 4), no_store=True)
        hit = _in_turns(services, kept, max(2 * rounds, 4), no_store=False)
        # what a service does at first it does no more
        idle = {count: _idle(service) for count, service in services.items()}
        pin(os.getpid(), cores)
        rates = _rates(services, kept, rounds)
    cost, cached = _ratio(made), _ratio(hit)
    return [
        f"idle, ms of CPU a second: {idle[1]:.1f} with one process, {idle[2]:.1f} with two and the model's",
        f"CPU a call to a mock upstream at {_rate(made):.0f} calls/s: {_median(made, 1):.0f} us with one process,"
        f" {_median(made, 2):.0f} with two",
        f"- {cost:.3f} (median of {len(made)} rounds; at most 1.05)",
        f"CPU an answer from the cache at {_rate(hit):.0f} calls/s: {_median(hit, 1):.0f} us and {_median(hit, 2):.0f}",
        f"- calculated from it, on a core each: {US / _median(hit, 1):.0f}/s and {2 * US / _median(hit, 2):.0f}/s,"
        f" {2 / cached:.2f} (at least 1.5)",
        f"- measured with wrk on the same cores: {rates[1]:.0f}/s and {rates[2]:.0f}/s, {rates[2] / rates[1]:.2f}",
    ]


Round = dict[int, tuple[float, float]]
"""By the number of processes: microseconds of CPU a call, and calls a second."""


def _in_turns(services: dict[int, Service], folder: Path, rounds: int, *, no_store: bool) -> list[Round]:
    script = _script(folder, no_store=no_store, pause=PAUSE_MS)
    for service in services.values():
        _wrk(service.url, script, 2)
    made, order = [], list(services)
    for _ in range(rounds):
        # who comes second pays for what the first has left in the caches
        order.reverse()
        made.append({count: _cost(services[count], script) for count in order})
    return made


def _ratio(rounds: list[Round]) -> float:
    return statistics.median(each[2][0] / each[1][0] for each in rounds)


def _median(rounds: list[Round], count: int) -> float:
    return statistics.median(each[count][0] for each in rounds)


def _rate(rounds: list[Round]) -> float:
    return statistics.median(rate for each in rounds for _, rate in each.values())


def _idle(service: Service) -> float:
    """Milliseconds of CPU a second without a call."""
    before = cpu_seconds(service.root)
    time.sleep(IDLE_SECONDS)
    return (cpu_seconds(service.root) - before) / IDLE_SECONDS * 1000


def _cost(service: Service, script: Path) -> tuple[float, float]:
    before = cpu_seconds(service.root)
    rate, calls = _wrk(service.url, script, ROUND_SECONDS)
    return (cpu_seconds(service.root) - before) / calls * US, rate


def _rates(services: dict[int, Service], folder: Path, rounds: int) -> dict[int, float]:
    """The best of each, as fast as wrk asks: other work can only make a figure worse."""
    script = _script(folder, no_store=False, pause=0)
    best = dict.fromkeys(services, 0.0)
    for _ in range(rounds):
        for count, service in services.items():
            best[count] = max(best[count], _wrk(service.url, script, ROUND_SECONDS)[0])
    return best


def _script(folder: Path, *, no_store: bool, pause: int) -> Path:
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "temperature": 0})
    lines = [
        'wrk.method = "POST"',
        'wrk.headers["Content-Type"] = "application/json"',
        f"wrk.body = {json.dumps(body)}",
    ]
    if no_store:
        lines.append('wrk.headers["Cache-Control"] = "no-store"')
    if pause:
        lines.append(f"function delay() return {pause} end")
    script = folder / "chat.lua"
    script.write_text("\n".join(lines) + "\n")
    return script


def _wrk(url: str, script: Path, seconds: int) -> tuple[float, int]:
    """Calls a second, and how many there were. Raises RuntimeError where one was refused."""
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "-s", str(script)]
    said = subprocess.run([*command, f"{url}/v1/chat/completions"], capture_output=True, text=True, check=True).stdout  # noqa: S603 - wrk
    if "Non-2xx" in said:
        raise RuntimeError(said)
    made = next(int(line.split()[0]) for line in said.splitlines() if "requests in" in line)
    return next(float(line.split()[1]) for line in said.splitlines() if line.startswith("Requests/sec")), made
