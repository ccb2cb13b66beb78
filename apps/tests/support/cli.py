"""Runs the command line as a process, as its users do."""

import subprocess
import sys
from pathlib import Path

from apps.tests.marks import learn_keys
from apps.tests.support.processes import environment, heard
from apps.tests.watch import WATCH

MAKING = ("keys create", "keys rotate")


def cli(folder: Path, line: str, **changes: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "apps.cli.main", *line.split()],
        cwd=folder,
        env=environment(0, changes),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
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
