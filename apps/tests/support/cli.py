"""Runs the command line as a process, as its users do."""

import subprocess
from pathlib import Path

from apps.tests.marks import learn_keys
from apps.tests.support.processes import environment, heard, run_module
from apps.tests.watch import WATCH

MAKING = ("keys create", "keys rotate")


def cli(folder: Path, line: str, **changes: str) -> subprocess.CompletedProcess[str]:
    done = run_module("apps.cli.main", line.split(), folder, environment(0, changes))
    if not line.startswith(MAKING):
        return heard(done)
    learn_keys(done.stdout)
    WATCH.took("standard error of a command", done.stderr)
    return done


def created(folder: Path, line: str, **changes: str) -> str:
    """The key that a command makes."""
    done = cli(folder, line, **changes)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()[-1]
