"""Mutation testing: do the fast tests of a module notice when its code is changed?

    python -m eval.mutants [--only PART] [--part N/OF] [--workers 1]

Each target is a module and the tests that are its own. One place of the module is changed at a time: a comparison,
an operator, a number, a truth value, a condition, a returned value, a statement that is left out. The tests run against
it in a forked process that imports the changed module, so no file is touched. What they do not notice has survived;
reports/mutants.json lists it. Texts with blanks in them, which are words for people, are not changed. Exits with 1
where a target's tests fail unchanged, or fewer than 90% of its mutants are killed and the survivors have no reason in
EXPLAINED. Needs fork, so not Windows.
"""

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import TextIO

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "mutants.json"
ENOUGH = 0.9
# of the processor's time for one run of the tests, and of the wall clock
MOST_CPU_SECONDS = 60
HANG = 900.0
KILLED, SURVIVED = 1, 0
# what is of this tree must be imported behind the change; the rest is imported once for all mutants
OWN = ("apps", "eval", "infra", "conftest")


@dataclass(frozen=True, slots=True)
class Target:
    """A module, and its tests with what selects among them."""

    module: str
    tests: tuple[str, ...]
    selected: str = ""
    root: Path = ROOT

    @property
    def file(self) -> Path:
        return self.root / (self.module.replace(".", "/") + ".py")


TARGETS = (
    Target(
        "apps.core.errors",
        (
            *("apps/core/tests/test_errors.py", "apps/core/tests/test_error_table.py"),
            "apps/core/tests/test_quoting.py",
        ),
    ),
    Target("apps.api.src.http.streaming", ("apps/api/tests/http/test_sse.py",)),
    Target(
        "apps.operations.budgets",
        ("apps/operations/tests/test_budgets.py", "apps/operations/tests/test_budget_accounts.py"),
        "not postgresql",
    ),
    Target(
        "apps.api.src.limits.limiter",
        (
            *("apps/api/tests/limits/test_limit_headers.py", "apps/api/tests/limits/test_token_limits.py"),
            *("apps/api/tests/limits/test_limits.py", "apps/api/tests/operations/test_key_limits.py"),
        ),
    ),
    Target(
        "apps.api.src.limits.counts",
        ("apps/api/tests/limits/test_rate_windows.py", "apps/api/tests/limits/test_shared_counts.py"),
    ),
)
# the survivors that no test could notice, or need not: module, line as it stands (stripped), and why
EXPLAINED: dict[tuple[str, str], str] = {
    ("apps.api.src.limits.counts", 'URI = "loop://"'): "the engine looks at the scheme alone",
    ("apps.api.src.limits.counts", "SEEN_SECONDS = 5.0"): "a heartbeat comes each second: one more or less is as good",
}

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a module, and the line where it is."""

    line: int
    was: str
    now: str
    code: CodeType


def mutants(target: Target) -> Iterator[Mutant]:
    """All of a module's, in the order of its lines."""
    text = target.file.read_text("utf-8")
    tree = ast.parse(text)
    lines, skipped = text.splitlines(), _skipped(tree)
    for number, node in enumerate(ast.walk(tree)):
        for change in range(0 if id(node) in skipped else _changes(node)):
            copy = deepcopy(tree)
            place = next(one for at, one in enumerate(ast.walk(copy)) if at == number)
            _change(place, change)
            line = getattr(node, "lineno", 0)
            code = compile(ast.fix_missing_locations(copy), str(target.file), "exec", dont_inherit=True)
            yield Mutant(line, lines[line - 1].strip(), ast.unparse(place)[:160], code)


def _skipped(tree: ast.Module) -> set[int]:
    """Docstrings and annotations, by id, with all that is in them; and what only type checkers read."""
    skipped: set[int] = set()

    def skip(node: ast.AST | None) -> None:
        if node is not None:
            skipped.update(id(one) for one in ast.walk(node))

    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skip(node)
        if isinstance(node, ast.AnnAssign | ast.arg):
            skip(node.annotation)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            skip(node.returns)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skip(node)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            skip(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "TypeVar":
            skip(node)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
            skip(node)
        # what a logger is told changes nothing
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith("log."):
            skip(node)
    return skipped


def _changes(node: ast.AST) -> int:
    """How many ways there are to change this node."""
    if isinstance(node, ast.Compare):
        return sum(type(op) in COMPARED for op in node.ops)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return int(bool(node.value) and " " not in node.value)
        return int(isinstance(node.value, bool | int | float))
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return int(type(node.op) in COUNTED)
    if isinstance(node, ast.Return):
        return int(node.value is not None and not isinstance(node.value, ast.Constant))
    return int(isinstance(node, ast.BoolOp | ast.If | ast.While | ast.IfExp | ast.Raise) or _is_call(node))


def _is_call(node: ast.AST) -> bool:
    """A statement that is run for what it does."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)


def _change(node: ast.AST, number: int) -> None:
    match node:
        case ast.Compare():
            place = [at for at, op in enumerate(node.ops) if type(op) in COMPARED][number]
            node.ops[place] = COMPARED[type(node.ops[place])]()
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=str(value)):
            node.value = value + "x"
        case ast.Constant(value=value):
            node.value = value + 1  # type: ignore[operator]
        case ast.BinOp() | ast.AugAssign():
            node.op = COUNTED[type(node.op)]()
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.If() | ast.While() | ast.IfExp():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Return():
            node.value = ast.Constant(None)
        case ast.Raise():
            node.exc, node.cause = ast.Name("KeyboardInterrupt", ast.Load()), None
        case ast.Expr():
            node.value = ast.Constant(None)


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module, and gives it changed code."""

    def __init__(self, target: Target, code: CodeType) -> None:
        self._target = target
        self._code = code

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._target.module:
            return None
        return importlib.util.spec_from_file_location(name, self._target.file, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The usual one."""

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)  # noqa: S102 - the tree's own code with one change


def passes_unchanged(target: Target) -> bool:
    """Whether the target's tests pass; all that they import of other packages is imported here then."""
    with tempfile.TemporaryFile("w+") as imported:
        if not survives(target, None, imported):
            return False
        imported.seek(0)
        for name in imported.read().split():
            with suppress(ImportError):  # one that is gone from sys.modules' names again
                importlib.import_module(name)
    return True


def survives(target: Target, code: CodeType | None, imported: TextIO | None = None) -> bool:
    """Whether the target's tests pass with this code in place of the module's; with None, as it is.

    ``imported`` is given the names of the modules of other packages that the tests have imported.
    """
    child = os.fork()
    if not child:
        _run_tests(target, code, imported)
    ends = time.monotonic() + HANG
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == SURVIVED
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(target: Target, code: CodeType | None, imported: TextIO | None) -> None:
    """In the child: it ends here."""
    status = KILLED
    try:
        os.setpgrp()
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_SECONDS, MOST_CPU_SECONDS))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        if code is not None:
            sys.meta_path.insert(0, Changed(target, code))
        import pytest

        selected = ["-k", target.selected] if target.selected else []
        marked = ["-m", "not long and not clients", "-p", "no:cacheprovider", "-x", "-q", "--assert", "plain"]
        if pytest.main([*marked, *selected, *target.tests]) == 0:
            status = SURVIVED
        if imported is not None:
            found = [name for name, module in sys.modules.items() if isinstance(module, ModuleType)]
            imported.write(" ".join(name for name in found if name.partition(".")[0] not in OWN))
            imported.flush()
    finally:
        os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="PART", help="modules whose names have this")
    parser.add_argument("--part", default="1/1", metavar="N/OF", help="every OF-th mutant, from the N-th")
    parser.add_argument("--workers", type=int, default=1, help="mutants at the same time")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    report, enough = [], True
    for target in TARGETS:
        if options.only not in target.module:
            continue
        if not passes_unchanged(target):
            print(f"{target.module}: its tests fail as it is")
            enough = False
            continue
        first, of = map(int, options.part.split("/"))
        made = list(mutants(target))[first - 1 :: of]
        left: list[Mutant] = []
        with ThreadPoolExecutor(options.workers) as pool:
            lives = pool.map(partial(survives, target), (one.code for one in made))
            for number, (one, alive) in enumerate(zip(made, lives, strict=True), 1):
                if alive:
                    left.append(one)
                    reason = EXPLAINED.get((target.module, one.was), "")
                    why = f"  ({reason})" if reason else ""
                    print(f"    {number}: line {one.line}: {one.was}  ->  {one.now}{why}", flush=True)
        unexplained = [one for one in left if (target.module, one.was) not in EXPLAINED]
        killed = 1 - len(left) / len(made)
        enough &= killed >= ENOUGH or not unexplained
        print(f"{target.module}: {len(made) - len(left)} of {len(made)} killed ({killed:.0%})", flush=True)
        survivors = [asdict_of(one) for one in left]
        report.append({"module": target.module, "mutants": len(made), "killed": round(killed, 3), "left": survivors})
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    return int(not enough)


def asdict_of(mutant: Mutant) -> dict[str, object]:
    return {"line": mutant.line, "was": mutant.was, "now": mutant.now}


if __name__ == "__main__":
    sys.exit(main())
