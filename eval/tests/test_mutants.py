"""What `make mutants` changes, how it runs the tests against it, and that no explanation outlives its line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from eval.mutants.changes import changed_code, mutants
from eval.mutants.running import ROOT, copied
from eval.mutants.targets import EXPLAINED, TARGETS

MODULE = '''"""A module of 1 docstring."""
import logging
import sys
from dataclasses import dataclass
from typing import Literal, TypeVar
log = logging.getLogger(__name__)
Kind = Literal["one", 2]
T = TypeVar("T")
MOST: "int" = 3
if sys.platform == "win32":
    MOST = 4

@dataclass(frozen=True, slots=True)
class Counter:
    def over(self, count: int, less: int = 6) -> bool:
        """Whether 7 < it."""
        log.warning("seen %d", 5)
        if count > MOST and not count == 9:
            raise ValueError("words for people")
        return count + 1
'''
WRITES = """
from pathlib import Path
MOST = 3
Path(__file__).with_name(f"written-{MOST}").touch()
"""
ONE_TARGET = """
from eval.mutants.running import Target
TARGETS, EXPLAINED = [Target("apps.small", ("apps/test_small.py",))], {}
"""
IN_ITS_BODY = [
    (18, "10"),
    (18, "count != 9"),
    (18, "count > MOST or not count == 9"),
    (18, "count >= MOST"),
    (18, "if not (count > MOST and (not count == 9)):"),
    (19, "pass"),
    (20, "2"),
    (20, "count - 1"),
    (20, "return None"),
]
TESTED = """
from pathlib import Path
from small import Counter

def test_none_is_over() -> None:
    Path("written").touch()
    assert Counter().over(3) == 4
    assert Counter().over(9) == 10
"""
# runs a target of this folder, and prints what became of each change
PROGRAM = """
import sys
from pathlib import Path
from eval.mutants.changes import mutants
from eval.mutants.running import Target, ends
target = Target("small", ("test_small.py",), root=Path.cwd())
for one, end in ends(target, list(mutants(target.file)), 2):
    print(one.line, one.now, "killed" if end.killed else "survived", sep="|")
"""


def test_each_mutant_is_one_change_of_what_runs(tmp_path: Path) -> None:
    file = tmp_path / "small.py"
    file.write_text(MODULE)
    found = list(mutants(file))
    assert sorted((one.line, one.now) for one in found if one.function == "Counter.over") == IN_ITS_BODY
    # a default is read when the function is made
    assert [(one.line, one.now) for one in found if one.function is None] == [(9, "4"), (15, "7")]
    assert len({changed_code(file, one).co_consts for one in found}) == len(found)


def test_a_change_is_killed_by_the_test_that_notices_it_and_survives_without_one(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(MODULE)
    (tmp_path / "test_small.py").write_text(TESTED)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTEST_ADDOPTS": "-c /dev/null"},
        capture_output=True,
        text=True,
        check=True,
    )
    survived = [line.rpartition("|")[0] for line in done.stdout.splitlines() if line.endswith("|survived")]
    assert len(done.stdout.splitlines()) == len(IN_ITS_BODY) + 2
    assert sorted(survived) == ["15|7", "19|pass", "9|4"]
    # what a mutant writes where it is does not come into the tree
    assert not (tmp_path / "written").exists()


def test_what_is_changed_and_written_in_the_copy_of_a_tree_is_not_in_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("apps/one.py", "conftest.py", ".env.example", ".git/HEAD", ".venv/bin/python", "reports/mutants.json"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    with copied(tree) as copy:
        found = sorted(str(one.relative_to(copy)) for one in copy.rglob("*") if one.is_file())
        assert found == [".env.example", "apps/one.py", "conftest.py"]
        (copy / "apps/one.py").write_text("changed")
        (copy / "apps/written").touch()
    assert not copy.exists()
    assert (tree / "apps/one.py").read_text() == "apps/one.py" and not (tree / "apps/written").exists()


def test_a_run_is_one_in_a_copy_and_its_report_comes_into_the_tree(tmp_path: Path) -> None:
    """Of a small tree with the runner in it, whose module writes beside its own file, changed or not."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "eval/mutants", tree / "eval/mutants", ignore=shutil.ignore_patterns("__pycache__"))
    files = {
        "eval/__init__.py": "",
        "eval/mutants/targets.py": ONE_TARGET,
        "apps/__init__.py": "",
        "apps/small.py": WRITES,
        "apps/test_small.py": "from apps.small import MOST\n\ndef test_most():\n    assert MOST == 3\n",
        "pytest.ini": "[pytest]\n",
        "reports/mutants.json": "{}",
    }
    for name, text in files.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(text)
    before = sorted(tree.rglob("*"))
    command = [sys.executable, "-m", "eval.mutants"]
    subprocess.run(command, cwd=tree, env={"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, check=False)
    assert sorted(tree.rglob("*")) == before
    found = json.loads((tree / "reports/mutants.json").read_text())["apps.small"]
    assert (found["mutants"], found["killed"], {one["line"] for one in found["left"]}) == (3, 1, {4})


def test_every_target_and_its_tests_are_there() -> None:
    assert all(one.file.exists() for one in TARGETS)
    assert all((ROOT / test.partition("::")[0]).exists() for one in TARGETS for test in one.tests)


def test_every_explanation_is_of_a_change_that_there_is() -> None:
    files = {one.module: one.file for one in TARGETS}
    for module, reasons in EXPLAINED.items():
        made = {(one.was, one.now) for one in mutants(files[module])}
        assert [change for change in reasons if change not in made] == []
