"""python -m eval.mutants [--only PART...] [--part N/OF] [--workers 1]

Prints what survives, and keeps it in reports/mutants.json. Runs in a copy of the tree. Exits with 1 where a target's
tests fail unchanged, or fewer than 90% of its mutants are killed or explained. Needs fork, so not Windows.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from eval.mutants.changes import Mutant, mutants
from eval.mutants.running import ROOT, TestsFailUnchanged, copied, ends
from eval.mutants.targets import EXPLAINED, TARGETS

REPORT = ROOT / "reports" / "mutants.json"
ENOUGH = 0.9


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.mutants", description="What do the tests not notice?")
    parser.add_argument("--only", nargs="+", default=[""], metavar="PART", help="modules whose names have one of these")
    parser.add_argument("--part", default="1/1", metavar="N/OF", help="every OF-th mutant, from the N-th")
    parser.add_argument("--workers", type=int, default=1, help="mutants at the same time")
    # in the copy, where the report of the tree is
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.report is None:
        given = sys.argv[1:] if arguments is None else arguments
        command = [sys.executable, "-m", "eval.mutants", *given, "--report", str(REPORT)]
        with copied(ROOT) as tree:
            return subprocess.run(command, cwd=tree, check=False).returncode  # noqa: S603 - this module again
    first, of = map(int, options.part.split("/"))
    os.chdir(ROOT)
    report = json.loads(options.report.read_text()) if options.report.exists() else {}
    enough = True
    for target in TARGETS:
        if not any(part in target.module for part in options.only):
            continue
        began = time.monotonic()
        made = list(mutants(target.file))[first - 1 :: of]
        reasons, left, hung = EXPLAINED.get(target.module, {}), list[Mutant](), 0
        try:
            for one, end in ends(target, made, options.workers):
                hung += end.hung
                why = reasons.get((one.was, one.now), "")
                if not end.killed:
                    left.append(one)
                    print(f"    line {one.line}: {one.was}  ->  {one.now}{f'  ({why})' if why else ''}", flush=True)
                elif why:
                    print(f"    noticed, though explained: line {one.line}: {one.now}, by {end.by}", flush=True)
        except TestsFailUnchanged as failure:
            print(f"{target.module}: its tests fail as it is: {failure}", flush=True)
            enough = False
            continue
        explained = sum((one.was, one.now) in reasons for one in left)
        killed = len(made) - len(left)
        enough &= killed + explained >= ENOUGH * len(made)
        print(
            f"{target.module}: {killed} of {len(made)} killed ({killed / len(made):.0%}; {hung} by a hang),"
            f" {explained} of the others explained; {time.monotonic() - began:.0f} s",
            flush=True,
        )
        report[target.module] = {
            "part": options.part,
            "mutants": len(made),
            "killed": killed,
            "hung": hung,
            "explained": explained,
            "left": [{"line": one.line, "was": one.was, "now": one.now} for one in left],
        }
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    return int(not enough)


if __name__ == "__main__":
    sys.exit(main())
