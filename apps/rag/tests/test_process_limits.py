"""The thread that watches where the system does not: Windows and macOS. Here it is forced."""

import subprocess
import sys
from pathlib import Path

import pytest

from apps.rag.parsing.process_limits import OUT_OF_MEMORY, OUT_OF_TIME, memory_in_use

ROOT = Path(__file__).parents[3]
BEGIN = """
from apps.rag.parsing.process_limits import ProcessLimits, memory_in_use
limits = ProcessLimits(memory_in_use() + 50 * 2**20, {seconds}, watched=True)
limits.begin_file()
"""


@pytest.mark.parametrize(
    ("work", "seconds", "code"),
    [
        ("while True: pass", 1, OUT_OF_TIME),
        ("import time\nhoard = []\nwhile True: hoard.append(b'x' * 2**20); time.sleep(0.001)", 25, OUT_OF_MEMORY),
        ("print('fine')", 1, 0),
    ],
)
@pytest.mark.long
def test_a_watched_process_ends_itself(work: str, seconds: int, code: int) -> None:
    begin = BEGIN.format(seconds=seconds)
    done = subprocess.run([sys.executable, "-c", begin + work], cwd=ROOT, timeout=90, capture_output=True)
    assert done.returncode == code, done.stderr


def test_memory_in_use_is_in_bytes() -> None:
    assert 5 * 2**20 < memory_in_use() < 2**40
