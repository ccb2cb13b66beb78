"""Measures what the ledger's journal costs a call: CPU time of the service with it and without, in turns.

    python -m eval.journal_cost [CALLS A ROUND]

Two services run beside each other on one mock upstream; each round sends the same calls to the one and to the other,
and reads the CPU time of their processes. A call's CPU time differs by a tenth from one second to the next, and by some
percent between two processes that do the same: so the rounds are short and many, what is told is the median of the
differences within a round, and which of two processes has the journal changes half-way. Linux only: it reads /proc.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from apps.tests.support.processes import Running, running
from eval.mock_upstream import mock_upstream
from eval.process_cpu import cpu_seconds

ROUNDS = 40
WARM_CALLS = 2000
CONNECTIONS = 4
BODY = json.dumps({"model": "gpt-4o-mini", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]})
PATH = "/v1/chat/completions"


def send(url: str, calls: int) -> None:
    """One after the other on a connection of their own."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    for _ in range(calls):
        connection.request("POST", PATH, BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"a call ended with {answer.status}")
    connection.close()


def measured(process: int, url: str, calls: int) -> float:
    """Microseconds of CPU a call."""
    before = cpu_seconds(process)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda _: send(url, calls // CONNECTIONS), range(CONNECTIONS)))
    return (cpu_seconds(process) - before) / calls * 1e6


def rounds(calls: int, mock_url: str, first: str) -> Iterator[tuple[float, float]]:
    """CPU microseconds a call without the journal and with it, round by round; ``first`` is the one that starts."""
    settings = {"OPENAI_BASE_URL": mock_url, "OPENAI_API_KEY": "none", "AUTH": "off", "RATE_LIMIT_ENABLED": "false"}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        services: dict[str, Running] = {}
        for way in (first, "on" if first == "off" else "off"):
            place = Path(folder) / way
            place.mkdir()
            services[way] = stack.enter_context(running(place, **settings, LEDGER_JOURNAL=way))
            measured(services[way].process.pid, services[way].url, WARM_CALLS)
        turns = list(services)
        for _ in range(ROUNDS):
            # who comes second pays for what the first has left in the caches
            turns.reverse()
            found = {way: measured(services[way].process.pid, services[way].url, calls) for way in turns}
            yield found["off"], found["on"]


def main(arguments: list[str]) -> int:
    calls = int(arguments[0]) if arguments else 400
    with mock_upstream() as mock:
        pairs = [pair for first in ("off", "on") for pair in rounds(calls, mock.base_url, first)]
    without = statistics.median(off for off, _ in pairs)
    differences = [on - off for off, on in pairs]
    journal = statistics.median(differences)
    # of the median, where the differences are about normal
    error = 1.25 * statistics.stdev(differences) / len(differences) ** 0.5
    print(
        f"{len(pairs)} rounds of {calls} calls: {without:.0f} us of CPU a call without, the journal: {journal:+.0f} us"
        f" (standard error {error:.0f}), {journal / without:+.1%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
