"""`make bench-gateway`: what the gateway costs, beside the least and the usual, in one run by wrk against one mock.

python -m eval.bench_gateway [--rounds N] [--seconds S] [--soak REQUESTS]. Needs wrk (Debian: apt-get install wrk). The
contenders take turns, so that whatever else the machine does meets all of them alike; figures are medians over the rounds, and
ratios are taken within a round. Writes reports/bench_gateway.md and .png.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval import gateway_report
from eval.gateway_contenders import ASK, Contender, contenders

CONNECTIONS = (1, 16, 64)
TOKENS = 20
EVENTS = TOKENS + 3  # the role, the tokens, the finish reason, [DONE]
NO_WRK = (
    "bench-gateway needs wrk, which is not installed (Debian and Ubuntu: apt-get install wrk; macOS: brew install wrk)"
)
SCRIPT = """
wrk.method = "POST"
wrk.body = [==[%s]==]
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\nRESULT {"requests": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "failed": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One contender under one load: latencies in milliseconds; ``ratio`` of its rate to the bare gateway's."""

    contender: str
    streamed: bool
    connections: int
    rate: float
    p50: float
    p99: float
    failed: int
    ratio: float = 0.0


def measure(contender: Contender, script: Path, streamed: bool, connections: int, seconds: float) -> Run:
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        contender.url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - wrk, asked for by name
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result = json.loads(line.removeprefix("RESULT "))
    rate = result["requests"] / result["seconds"]
    return Run(contender.name, streamed, connections, rate, result["p50"], result["p99"], result["failed"])


def rounds(running: Sequence[Contender], folder: Path, count: int, seconds: float) -> Iterator[list[Run]]:
    """Each round's runs of one load, one a contender, with their ratios; who begins changes from round to round."""
    for number in range(count):
        turn = [*running[number % len(running) :], *running[: number % len(running)]]
        for streamed in (False, True):
            script = folder / f"{streamed}.lua"
            script.write_text(SCRIPT % json.dumps({**ASK, "stream": streamed}), encoding="utf-8")
            for connections in CONNECTIONS:
                runs = [measure(contender, script, streamed, connections, seconds) for contender in turn]
                bare = next(run.rate for run in runs if run.contender == "bare")
                yield [replace(run, ratio=run.rate / bare) for run in runs]
        print(f"round {number + 1} of {count}", file=sys.stderr)


def medians(runs: Sequence[Run]) -> list[Run]:
    """One run a contender and load, of each figure's median; failures are summed."""
    loads = dict.fromkeys((run.contender, run.streamed, run.connections) for run in runs)
    made = []
    for contender, streamed, connections in loads:
        same = [r for r in runs if (r.contender, r.streamed, r.connections) == (contender, streamed, connections)]
        rate, p50, p99, ratio = (
            statistics.median(getattr(run, figure) for run in same) for figure in ("rate", "p50", "p99", "ratio")
        )
        made.append(Run(contender, streamed, connections, rate, p50, p99, sum(r.failed for r in same), ratio))
    return made


def soak(ours: Contender, folder: Path, requests: int) -> list[tuple[int, float]]:
    """Memory in MB after so many requests, in ten steps; streamed and not in turn."""
    told, count = [(0, ours.rss_mb())], 0
    while count < requests:
        for streamed in (False, True):
            run = measure(ours, folder / f"{streamed}.lua", streamed, 16, 5)
            count += int(run.rate * 5)
        told.append((count, ours.rss_mb()))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--soak", type=int, default=0, help="requests to watch the memory over, after the rounds")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit(NO_WRK)
    with tempfile.TemporaryDirectory() as name, contenders(Path(name)) as running:
        folder = Path(name)
        for contender in running:  # warm: connections, lazy imports
            script = folder / "warm.lua"
            script.write_text(SCRIPT % json.dumps(ASK), encoding="utf-8")
            measure(contender, script, False, 16, 1)
        runs = [run for load in rounds(running, folder, given.rounds, given.seconds) for run in load]
        memory = soak(running[2], folder, given.soak) if given.soak else []
        report = gateway_report.write(Path("reports"), medians(runs), running, memory, EVENTS)
    print(report)


if __name__ == "__main__":
    main()
