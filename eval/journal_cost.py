"""Measures what the ledger's journal costs a call: CPU time of the service with it and without, in turns.

    python -m eval.journal_cost [CALLS A ROUND]

Two services run beside each other on one mock upstream; each round sends the same calls to the one and to the other,
and reads the CPU time of their processes. Linux only, since it reads /proc.
"""

import json
import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from apps.tests.support.processes import running
from eval.mock_upstream import mock_upstream

ROUNDS = 8
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


def cpu_seconds(process: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(process: int, url: str, calls: int) -> float:
    """Microseconds of CPU a call."""
    before = cpu_seconds(process)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda _: send(url, calls // CONNECTIONS), range(CONNECTIONS)))
    return (cpu_seconds(process) - before) / calls * 1e6


def main(arguments: list[str]) -> int:
    calls = int(arguments[0]) if arguments else 4000
    with tempfile.TemporaryDirectory() as folder, mock_upstream() as mock:
        settings = {"OPENAI_BASE_URL": mock.base_url, "OPENAI_API_KEY": "none", "AUTH": "off", "RATE_LIMIT_V1": ""}
        settings = {name: value for name, value in settings.items() if value} | {"RATE_LIMIT_ENABLED": "false"}
        places = {way: Path(folder) / way for way in ("off", "on")}
        for place in places.values():
            place.mkdir()
        with (
            running(places["off"], **settings, LEDGER_JOURNAL="off") as without,
            running(places["on"], **settings, LEDGER_JOURNAL="on") as with_it,
        ):
            found: dict[str, list[float]] = {"off": [], "on": []}
            turns = [("off", without), ("on", with_it)]
            for _ in range(ROUNDS):
                # who comes second pays for what the first has left in the caches
                turns.reverse()
                for way, service in turns:
                    found[way].append(measured(service.process.pid, service.url, calls))
    off, on = (statistics.median(found[way][1:]) for way in ("off", "on"))
    print(
        f"without: {off:.0f} us of CPU a call, with: {on:.0f} us, the journal: {on - off:+.0f} us, {on / off - 1:+.1%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
