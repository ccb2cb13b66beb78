"""`make bench-gateway`: what the gateway costs, beside the least and the usual, in one run by wrk against one mock.

python -m eval.bench_gateway [--against CHECKOUT] [--contenders bare,off,on] [--rounds N] [--seconds S] [--soak CALLS]

Needs wrk (Debian: apt-get install wrk). The contenders take turns, so that whatever else the machine does meets all of
them alike; figures are medians over the rounds, and ratios are taken within a round. "on" has keys with limits, limits
an address, ledger, metrics, access log and cache, and is asked what no cache may keep, what is never in it and what
always is; "off" has what no setting turns off. --against is another checkout of this repository, say a git worktree of
an earlier commit, which runs beside them as "then". Writes reports/bench_gateway.md and .png; about four minutes.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from eval import gateway_report
from eval.gateway_calls import Kind
from eval.gateway_contenders import NAMES, Contender, contenders
from eval.gateway_runs import Run, medians, with_ratios
from eval.gateway_wrk import Wrk

CONNECTIONS: dict[Kind, tuple[int, ...]] = {"plain": (1, 16, 64), "miss": (1, 16), "hit": (1, 16)}
SOAK_SECONDS = 5
NO_WRK = (
    "bench-gateway needs wrk, which is not installed (Debian and Ubuntu: apt-get install wrk; macOS: brew install wrk)"
)


def rounds(running: Sequence[Contender], wrk: Wrk, count: int) -> Iterator[Run]:
    """All runs, with their ratios; who begins, and who comes after whom, changes from round to round."""
    lots = asked(running)
    for number in range(count):
        first = number * len(lots) // count
        turn = [*lots[first:], *lots[:first]][:: -1 if number % 2 else 1]
        for streamed, connections in product((False, True), CONNECTIONS["plain"]):
            yield from with_ratios(
                [
                    wrk.run(contender, kind, streamed, connections)
                    for contender, kind in turn
                    if connections in CONNECTIONS[kind]
                ]
            )
        print(f"round {number + 1} of {count}", file=sys.stderr)


def asked(running: Sequence[Contender]) -> list[tuple[Contender, Kind]]:
    """Who is asked which kinds of calls: only "on" has a cache."""
    return [(each, kind) for each in running for kind in CONNECTIONS if kind == "plain" or each.name == "on"]


def soak(contender: Contender, wrk: Wrk, requests: int) -> list[tuple[int, float]]:
    """Memory in MB after so many requests; streamed and not in turn."""
    told, count = [(0, contender.rss_mb())], 0
    while count < requests:
        for streamed in (False, True):
            count += int(wrk.run(contender, "plain", streamed, 16).rate * wrk.seconds)
        told.append((count, contender.rss_mb()))
    return told


def _names(given: str) -> list[str]:
    names = given.split(",")
    if wrong := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(wrong))}: not among {', '.join(NAMES)}")
    return list(dict.fromkeys(names))


def _checkout(given: str) -> Path:
    path = Path(given).resolve()
    if not (path / "apps/api/src/main.py").is_file():
        raise argparse.ArgumentTypeError(f"{given}: no checkout of this repository")
    return path


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "log", "-1", "--format=%h %s"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - git, asked for by name
    return done.stdout.strip() or f"{checkout.name}, of which git knows no commit"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=_checkout, help="a checkout of this repository to run beside this one")
    parser.add_argument("--contenders", type=_names, default=list(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=1, help="of each run; wrk takes whole ones only")
    parser.add_argument("--soak", type=int, default=0, help="requests to watch the memory over, after the rounds")
    given = parser.parse_args()
    if given.soak and not {"on", "ours"} & set(given.contenders):
        parser.error("--soak is for the contenders on and ours")
    return given


def main() -> None:
    given = _arguments()
    if shutil.which("wrk") is None:
        sys.exit(NO_WRK)
    with tempfile.TemporaryDirectory() as name, contenders(Path(name), given.contenders, given.against) as started:
        mock, running = started
        wrk = Wrk(Path(name), mock, given.seconds)
        warm = Wrk(Path(name), mock, 1)  # connections, lazy imports
        for (contender, kind), streamed in product(asked(running), (False, True)):
            warm.run(contender, kind, streamed, 16)
        runs = medians(list(rounds(running, wrk, given.rounds)))
        memory = []
        if given.soak:
            ours = next(each for name in ("on", "ours") for each in running if each.name == name)
            memory = soak(ours, Wrk(Path(name), mock, SOAK_SECONDS), given.soak)
        then = _commit(given.against) if given.against else ""
        report = gateway_report.write(Path("reports"), runs, running, memory, then)
    print(report)


if __name__ == "__main__":
    main()
