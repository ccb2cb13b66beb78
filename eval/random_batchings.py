"""Random batchings of the local engine on every kernel variant that can compute here: does any answer change?

    python -m eval.random_batchings [--seed 0] [--first 0] [--count 1000] [--variants NAME,...]

The variants take turns, emulated ones too. Each answer, and the log probability of each of its tokens, must have the
bits that it has alone. The first that has not ends the run, with the command that runs its batching again.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from apps.local.engine.port import NoKernel
from apps.tests.support.kernels import library_of, variants_here
from apps.tests.support.random_batchings import Bench, Difference, draw

COUNTED = (
    *("batchings", "answers", "greedy answers", "left", "tokens", "steps", "drafted", "accepted"),
    *("tokens from memory", "tokens from disk", "interrupted"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first batching")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--variants", help="by their names; without it, all that can compute here")
    given = parser.parse_args()
    here = {variant.name: variant for variant in variants_here()}
    names = given.variants.split(",") if given.variants else list(here)
    if unknown := [name for name in names if name not in here]:
        parser.error(f"{', '.join(unknown)} cannot compute here; these can: {', '.join(here)}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        benches = {}
        for name in names:
            try:
                benches[name] = Bench(library_of(here[name]), Path(folder, name))
            except NoKernel as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
        for number in range(given.first, given.first + given.count):
            name = names[number % len(names)]
            try:
                benches[name].check(draw(given.seed, number))
            except (Difference, TimeoutError) as error:
                again = f"--seed {given.seed} --first {number} --count 1 --variants {name}"
                print(f"{error or 'it did not end'}\nagain: python -m eval.random_batchings {again}", file=sys.stderr)
                return 1
    for name, bench in benches.items():
        print(f"{name}: {', '.join(f'{bench.totals[what]:,} {what}' for what in COUNTED)}")
    print(f"no difference in {given.count} batchings of seed {given.seed}, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
