"""What `make mutants` changes: one place at a time, and nothing that only readers or type checkers see."""

from pathlib import Path

from eval.mutants import ROOT, TARGETS, Target, mutants

MODULE = '''"""A module of 1 docstring."""
import logging
from typing import Literal, TypeVar
log = logging.getLogger(__name__)
Kind = Literal["one", 2]
T = TypeVar("T")
MOST: "int" = 3

def over(count: int) -> bool:
    """Whether 7 < it."""
    log.warning("seen %d", 5)
    if count > MOST and not count == 9:
        raise ValueError("words for people")
    return count + 1
'''


def test_each_mutant_is_one_change_of_what_runs(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(MODULE)
    found = [(one.line, one.now) for one in mutants(Target("small", (), root=tmp_path))]
    conditions = [(12, now) for _, now in found if now.startswith("if not ")]
    assert len(conditions) == 1
    assert sorted(one for one in found if not one[1].startswith("if ")) == [
        (7, "4"),
        (12, "10"),
        (12, "count != 9"),
        (12, "count > MOST or not count == 9"),
        (12, "count >= MOST"),
        (13, "raise KeyboardInterrupt"),
        (14, "2"),
        (14, "count - 1"),
        (14, "return None"),
    ]


def test_every_target_and_its_tests_are_there() -> None:
    assert all(one.file.exists() for one in TARGETS)
    assert all((ROOT / test).exists() for one in TARGETS for test in one.tests)
