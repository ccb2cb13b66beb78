"""This checkout's collections of documents beside those of another checkout, say of an earlier commit.

python -m eval.rag_duel CHECKOUT [--rows N] [--pages N] [--rounds N] [--keep FOLDER]

Each builds a collection of so many passages (eval.rag_speed), and a process of each answers the same questions: a
block here, a block there, the other way round in every second round, so that whatever else the machine does meets both
alike. ``--pages`` compares the ingestion of so many pages of PDF a round instead. One line of JSON a kind of call.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from eval.rag_asker import EMBEDDING, INGESTION, OPTIONS
from eval.rag_speed import QUERIES, Words
from eval.rag_speed_ingestion import pdfs

KINDS = (EMBEDDING, *OPTIONS)
HERE = Path(__file__).parents[1]
ASKER = Path(__file__).with_name("rag_asker.py")
A_BLOCK = 10
BUILD = "import asyncio, sys, pathlib, eval.rag_speed as s; m = s.MiniLM(); " + (
    "asyncio.run(s.build(pathlib.Path(sys.argv[1]), int(sys.argv[2]), m.name, m.dimensions))"
)


@dataclass(frozen=True, slots=True)
class Compared:
    """Milliseconds of this checkout's calls and the other's; ``ratio`` is the median of those within a round."""

    kind: str
    now_p50: float
    then_p50: float
    now_min: float
    then_min: float
    ratio: float
    now_cpu: float
    then_cpu: float


Block = list[tuple[float, float]]


def compared(kind: str, now: Sequence[Block], then: Sequence[Block]) -> Compared:
    """``now`` and ``then`` hold a block a round, of milliseconds and the CPU's milliseconds."""
    ratios = [_p50(mine, 0) / _p50(others, 0) for mine, others in zip(now, then, strict=True)]
    both = [[one for block in blocks for one in block] for blocks in (now, then)]
    middle, least = ([_p50(side, 0) for side in both], [min(wall for wall, _ in side) for side in both])
    cpu = [_p50(side, 1) for side in both]
    figures = (*middle, *least, statistics.median(ratios), *cpu)
    return Compared(kind, *(round(figure, 2) for figure in figures))


def _p50(block: Block, of: int) -> float:
    return statistics.median(one[of] for one in block)


def compare_latency(folder: Path, rows: int, against: Path, rounds: int, queries: Sequence[str]) -> list[Compared]:
    """The collections are built in ``folder`` unless they are there from another time."""
    places = {HERE: folder / f"now-{rows}", against: folder / f"then-{rows}"}
    for checkout, place in places.items():
        if not place.exists():
            _run(checkout, "-c", BUILD, str(place), str(rows))
    found: dict[str, dict[Path, list[Block]]] = {kind: {checkout: [] for checkout in places} for kind in KINDS}
    with _asker(HERE, places[HERE]) as here, _asker(against, places[against]) as there:
        asking = {HERE: here, against: there}
        for kind in KINDS:
            for process in asking.values():
                _ask(process, kind, queries[:A_BLOCK])
        for number in range(rounds):
            first = (number + 1) * A_BLOCK % (len(queries) - A_BLOCK + 1)
            block = queries[first : first + A_BLOCK]
            for kind in KINDS:
                for checkout in list(places)[:: -1 if number % 2 else 1]:
                    found[kind][checkout].append(_ask(asking[checkout], kind, block))
    return [compared(kind, sides[HERE], sides[against]) for kind, sides in found.items()]


def compare_ingestion(folder: Path, pages: int, against: Path, rounds: int) -> Compared:
    """Of a file of so many pages, a new one in each round; the CPU's time is without that of the parsing process."""
    files: list[Path] = []
    for name, content in pdfs(pages * (rounds + 1), pages):
        files.append(folder / name)
        files[-1].write_bytes(content)
    found: dict[Path, list[Block]] = {HERE: [], against: []}
    with _asker(HERE, folder / "now") as here, _asker(against, folder / "then") as there:
        asking = {HERE: here, against: there}
        for number, file in enumerate(files):
            for checkout in [HERE, against][:: -1 if number % 2 else 1]:
                found[checkout].append(_ask(asking[checkout], INGESTION, [str(file)]))
    # the first file meets a model that is not loaded yet
    return compared(INGESTION, found[HERE][1:], found[against][1:])


def _environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout)}


def _run(checkout: Path, *arguments: str) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=checkout, env=_environment(checkout), check=True)  # noqa: S603 - our own modules


def _asker(checkout: Path, folder: Path) -> "subprocess.Popen[str]":
    """Ends with its standard input."""
    # -P: without the script's own folder on the path
    return subprocess.Popen(  # noqa: S603 - our own file
        [sys.executable, "-P", str(ASKER), str(folder)],
        cwd=checkout,
        env=_environment(checkout),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(process: "subprocess.Popen[str]", kind: str, queries: Sequence[str]) -> Block:
    if process.stdin is None or process.stdout is None:
        raise ValueError("a process without pipes cannot be asked")
    process.stdin.write(json.dumps([kind, list(queries)]) + "\n")
    process.stdin.flush()
    return [(wall, cpu) for wall, cpu in json.loads(process.stdout.readline())]


def _checkout(given: str) -> Path:
    path = Path(given).resolve()
    if not (path / "eval/rag_speed.py").is_file():
        raise argparse.ArgumentTypeError(f"{given}: no checkout of this repository")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=_checkout)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pages", type=int, default=0, help="compare the ingestion of so many pages a round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="a folder where the collections are kept for the next time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if given.pages:
            print(json.dumps(asdict(compare_ingestion(Path(name), given.pages, given.checkout, given.rounds))))
            return
        folder = (given.keep or Path(name)).resolve()
        for one in compare_latency(folder, given.rows, given.checkout, given.rounds, Words().texts(QUERIES, 7)):
            print(json.dumps(asdict(one)))


if __name__ == "__main__":
    main()
