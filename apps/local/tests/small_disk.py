"""A disk that is soon full: a tmpfs of a few megabytes, which only one process and its children see."""

import subprocess
import sys
from pathlib import Path

import pytest

OWN_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]


def run_on_small_disk(folder: Path, megabytes: int, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python's ``program`` where ``folder`` is such a disk; skips where mounting is not allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    try:
        subprocess.run([*OWN_MOUNTS, *mount], check=True, capture_output=True, timeout=90)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a mount namespace of its own, which this machine does not give: {error}")
    then = ["sh", "-c", f'{" ".join(mount[:-1])} "$0" && exec "$@"', str(folder)]
    command = [*OWN_MOUNTS, *then, sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)
