"""What a second API process costs and brings: a part of `make bench-fleet`.

A call's cost is the CPU time of all processes of a service. It depends on how many calls a process has: one that is
asked often takes several events in one turn of its loop, and finds its code and data in the caches, where one that is
asked seldom, or another process in between, has them fetched again. So a process of a service with two workers is
compared with the process of a service with one that has as many calls a second: a second one is started for more
calls. That is the ratio which may be 1.05. What else is measured says where the rest comes from: both services at the
same calls a second (a process of two has half of them), one process at half of them, and two services of one process
each beside each other, which have nothing to do with each other: what two workers cost less than those is the price of
two processes, and what they cost more is that of being workers.

The services run beside each other and are asked in turns, each round in the other order, by callers who pause for
random times, as many a second as either carries easily. All services have one core, wrk and the mock upstream the
other: on two cores two processes would share each core's caches with those two, and one would not.

What two processes can answer from the cache is calculated from that cost (a core each), and measured too, where wrk
must share the two cores with them.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from eval.bench_process import READY_SECONDS, process
from eval.mock_upstream import mock_upstream
from eval.process_cpu import await_calm, family, pin, pin_process, started_with, thread_seconds

CONNECTIONS = 16
PAUSE_MS = 40
ROUND_SECONDS = 4
IDLE_SECONDS = 10
REST_SECONDS = 10
LEAST_ROUNDS = 6
NO_MODEL = {"LOCAL_MODEL": "/none", "LOCAL_FALLBACK": "none"}
US = 1e6


@dataclass(frozen=True, slots=True)
class Service:
    """One that runs, with its first process."""

    url: str
    root: int


@dataclass(frozen=True, slots=True)
class Case:
    """Who is asked, by so many connections each."""

    services: tuple[str, ...]
    connections: int


# as many calls a second for each process as "one" has: "two"; half of them: the last three
CASES = {
    "one": Case(("one",), CONNECTIONS),
    "two": Case(("two",), 2 * CONNECTIONS),
    "two, same calls": Case(("two",), CONNECTIONS),
    "one, half": Case(("one",), CONNECTIONS // 2),
    "two services": Case(("left", "right"), CONNECTIONS // 2),
}
PROCESSES = {"one": 1, "two": 2, "left": 1, "right": 1}


def workers(rounds: int) -> list[str]:
    """CPU a call with one process and with two, and answers from the cache a second."""
    with ExitStack() as stack:
        upstream = stack.enter_context(mock_upstream(tokens=6))
        kept = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        services = {}
        for name, count in PROCESSES.items():
            settings = {"API_WORKERS": str(count), "OPENAI_BASE_URL": upstream.base_url, "OPENAI_API_KEY": "bench"}
            settings |= {**NO_MODEL, "CACHE_STORAGE": f"disk://{kept}/{name}"}
            url = stack.enter_context(process(settings))
            services[name] = Service(url, started_with("API_PORT", url.rpartition(":")[2]))
        for service in services.values():
            await_calm(service.root, READY_SECONDS)
        cores = os.sched_getaffinity(0)
        for service in services.values():
            pin(service.root, {max(cores)})
        pin_process(os.getpid(), {min(cores)})
        made = _in_turns(services, kept, max(2 * rounds, LEAST_ROUNDS), no_store=True)
        hit = _in_turns(services, kept, max(2 * rounds, LEAST_ROUNDS), no_store=False)
        # what a service does at first, and right after calls, it does no more
        time.sleep(REST_SECONDS)
        idle = {name: _idle(services[name]) for name in ("one", "two")}
        pin(os.getpid(), cores)
        rates = _rates(services, kept, rounds)
    cached = _median(hit, "two") / US
    return [
        f"idle, ms of CPU a second: {idle['one']:.1f} with one process, {idle['two']:.1f} with two and the model's",
        *_costs("CPU a call to a mock upstream", made),
        *_costs("CPU an answer from the cache", hit),
        f"from the cache, calculated, on a core each: {US / _median(hit, 'one'):.0f}/s and {2 / cached:.0f}/s,"
        f" {2 / _ratio(hit, 'two', 'one'):.2f} (at least 1.5)",
        f"- measured with wrk on the same cores: {rates['one']:.0f}/s and {rates['two']:.0f}/s,"
        f" {rates['two'] / rates['one']:.2f}",
    ]


def _costs(what: str, rounds: list["Round"]) -> list[str]:
    """Lines; each ratio is the median of the rounds' ratios."""
    lines = [f"{what}, median of {len(rounds)} rounds:"]
    for name in CASES:
        lines.append(f"- {name}: {_median(rounds, name):.0f} us at {_rate(rounds, name):.0f} calls/s")
    return [
        *lines,
        f"- as many calls a process, two to one: {_ratio(rounds, 'two', 'one'):.3f} (at most 1.05)",
        f"- as many calls in all: {_ratio(rounds, 'two, same calls', 'one'):.3f}; two services to one:"
        f" {_ratio(rounds, 'two services', 'one'):.3f}; one process with half of them: "
        f"{_ratio(rounds, 'one, half', 'one'):.3f}",
        f"- two workers to two services: {_ratio(rounds, 'two, same calls', 'two services'):.3f}",
    ]


Round = dict[str, tuple[float, float]]
"""By the case: microseconds of CPU a call, and calls a second."""


def _in_turns(services: Mapping[str, Service], folder: Path, rounds: int, *, no_store: bool) -> list[Round]:
    script = _script(folder, no_store=no_store, pause=PAUSE_MS)
    for service in services.values():
        _wrk([service.url], script, CONNECTIONS, 2)
    made, order = [], list(CASES)
    for _ in range(rounds):
        # who comes second pays for what the first has left in the caches
        order.reverse()
        made.append({name: _cost([services[one] for one in CASES[name].services], script, name) for name in order})
    return made


def _ratio(rounds: list[Round], name: str, to: str) -> float:
    return statistics.median(each[name][0] / each[to][0] for each in rounds)


def _median(rounds: list[Round], name: str) -> float:
    return statistics.median(each[name][0] for each in rounds)


def _rate(rounds: list[Round], name: str) -> float:
    return statistics.median(each[name][1] for each in rounds)


def _idle(service: Service) -> float:
    """Milliseconds of CPU a second without a call."""
    before = _cpu([service])
    time.sleep(IDLE_SECONDS)
    return (_cpu([service]) - before) / IDLE_SECONDS * 1000


def _cpu(services: Sequence[Service]) -> float:
    """Seconds of all threads that are there."""
    threads = [thread_seconds(one) for service in services for one in family(service.root)]
    return sum(one.main + one.others for one in threads)


def _cost(services: Sequence[Service], script: Path, case: str) -> tuple[float, float]:
    before = _cpu(services)
    rate, calls = _wrk([service.url for service in services], script, CASES[case].connections, ROUND_SECONDS)
    return (_cpu(services) - before) / calls * US, rate


def _rates(services: Mapping[str, Service], folder: Path, rounds: int) -> dict[str, float]:
    """The best of each, as fast as wrk asks: other work can only make a figure worse."""
    script = _script(folder, no_store=False, pause=0)
    best = dict.fromkeys(("one", "two"), 0.0)
    for _ in range(rounds):
        for name in best:
            best[name] = max(best[name], _wrk([services[name].url], script, CONNECTIONS, ROUND_SECONDS)[0])
    return best


def _script(folder: Path, *, no_store: bool, pause: int) -> Path:
    """What each caller asks, and how long it waits before it asks again: ``pause`` milliseconds on average."""
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "temperature": 0})
    lines = [
        'wrk.method = "POST"',
        'wrk.headers["Content-Type"] = "application/json"',
        f"wrk.body = {json.dumps(body)}",
    ]
    if no_store:
        lines.append('wrk.headers["Cache-Control"] = "no-store"')
    if pause:
        # with pauses of one length all would ask at once, again and again
        lines.append(f"function delay() return -{pause} * math.log(1 - math.random()) end")
    script = folder / "chat.lua"
    script.write_text("\n".join(lines) + "\n")
    return script


def _wrk(urls: Sequence[str], script: Path, connections: int, seconds: int) -> tuple[float, int]:
    """Calls a second of all together, and how many there were. Raises RuntimeError where one was refused."""
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(script)]
    running = [
        subprocess.Popen([*command, f"{url}/v1/chat/completions"], stdout=subprocess.PIPE, text=True)  # noqa: S603 - wrk
        for url in urls
    ]
    rate, made = 0.0, 0
    for one in running:
        said = one.communicate()[0]
        if one.returncode or "Non-2xx" in said:
            raise RuntimeError(said)
        made += next(int(line.split()[0]) for line in said.splitlines() if "requests in" in line)
        rate += next(float(line.split()[1]) for line in said.splitlines() if line.startswith("Requests/sec"))
    return rate, made
