"""Runs the tests of a module against its mutants, each in a process and a working folder of its own.

Changed code may write wherever it is, and beside its own file: `python -m eval.mutants` runs in a copy of the tree,
which is removed at the end. So no file of the tree is touched, and it may be changed meanwhile.

Most mutants change the body of a function. For these pytest collects the tests once, and each mutant is a fork of that
process in which the function has its changed code. What is run when the module is imported needs an import: such a
mutant is a fork of a process that has imported the packages of others alone, and finds the changed module.

Tests that call the changed function come first, and before them those that noticed another change of it. A mutant has
survived when all tests have passed. One that takes many times as long as the unchanged module counts as noticed.
"""

import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any

import pytest

from eval.mutants.changes import Mutant, changed_code, functions_of

ROOT = Path(__file__).parents[2]
# of the processor's time for one mutant, and of the wall clock: so many times the unchanged run, between these two
MOST_CPU_SECONDS = 60
LEAST_SECONDS, MOST_SECONDS = 30.0, 120.0
TIMES_UNCHANGED = 5
KILLED, SURVIVED, NO_TESTS = 1, 0, 3
# what is of this tree must be imported behind the change; the rest is imported once for all mutants
OWN = ("apps", "eval", "infra", "conftest")
OPTIONS = (*("-x", "-q", "--assert=plain", "--capture=sys", "-p", "no:cacheprovider", "-p", "no:randomly"),)


# no code, and large
NOT_COPIED = (".git", ".venv*", "node_modules", ".cache", ".*_cache", "reports")


@contextmanager
def copied(tree: Path) -> Iterator[Path]:
    """A copy of a tree for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(tree, copy, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
        yield copy


@dataclass(frozen=True, slots=True)
class Target:
    """A module, and its tests with what selects among them, by name and by mark."""

    module: str
    tests: tuple[str, ...]
    selected: str = ""
    marked: str = "not long and not clients"
    root: Path = ROOT

    @property
    def file(self) -> Path:
        return self.root / (self.module.replace(".", "/") + ".py")


@dataclass(frozen=True, slots=True)
class End:
    """What became of a mutant: the test that noticed it, empty where something else did."""

    killed: bool
    by: str = ""
    hung: bool = False


class NoTests(Exception):
    """There are no tests to run, so that none can fail."""


class TestsFailUnchanged(Exception):
    """The tests of a target fail as it is; no change can be noticed then."""


def ends(target: Target, made: Sequence[Mutant], workers: int) -> Iterator[tuple[Mutant, End]]:
    """Run all of them, ``workers`` at a time. Raises TestsFailUnchanged."""
    reading, writing = os.pipe()
    host = os.fork()
    if not host:
        os.close(reading)
        _run_tests(target, _Host(target, made, workers, writing))
    os.close(writing)
    done: set[int] = set()
    with os.fdopen(reading, encoding="utf-8") as lines:
        unchanged = json.loads(lines.readline() or "null")
        for line in lines:
            at, *end = json.loads(line)
            done.add(at)
            yield made[at], End(*end)
    os.waitpid(host, 0)
    if unchanged is None or len(unchanged) == 1:
        raise TestsFailUnchanged(*(unchanged or ["they cannot be collected"]))
    patience, imported = unchanged
    for name in imported:
        with suppress(ImportError):  # one that is gone from sys.modules' names again
            importlib.import_module(name)
    killers: list[str] = []
    root = Path.cwd()

    def run(at: int, telling: int) -> None:
        sys.meta_path.insert(0, _Changed(target, made[at]))
        folder = Path.cwd()
        os.chdir(root)
        _run_tests(target, _Ordered(killers, telling, folder))

    left = {at: partial(run, at) for at in range(len(made)) if at not in done}
    for at, end in _forked(left, workers, patience):
        _note(killers, end)
        yield made[at], end


def _note(killers: list[str], end: End) -> None:
    if end.by:
        killers[:] = [end.by, *(one for one in killers if one != end.by)]


def _forked(work: Mapping[int, Callable[[int], None]], workers: int, patience: float) -> Iterator[tuple[int, End]]:
    """Run each in a child, which is given a pipe's end for the name of the test that fails, and ends itself."""
    waiting, running = deque(work), dict[int, tuple[int, int, Path, float]]()
    seen, waited = time.monotonic(), 0.0
    while waiting or running:
        # a machine that stands still for a while, and its processes with it, has made none of them hang
        now = time.monotonic()
        seen, waited = now, waited + min(1.0, now - seen)
        if waiting and len(running) < workers:
            at = waiting.popleft()
            child, reading, folder = _fork(partial(_bounded, work[at]))
            running[child] = at, reading, folder, waited + patience
            continue
        time.sleep(0.005)
        for child, (at, reading, folder, until) in list(running.items()):
            hung = waited > until
            if not (os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) or hung):
                continue
            # with what it has started
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            os.set_blocking(reading, False)
            by = os.read(reading, 4096).decode()
            os.close(reading)
            shutil.rmtree(folder, ignore_errors=True)
            del running[child]
            code = os.waitstatus_to_exitcode(status)
            if code == NO_TESTS:
                raise NoTests("a target's tests are not there any more")
            yield at, End(hung or code != SURVIVED, by, hung)


def _fork(work: Callable[[int], None]) -> tuple[int, int, Path]:
    """A child in a process group of its own, the end of a pipe where it can be heard, and its working folder.

    The folder is the caller's to remove: a changed module may write wherever it is.
    """
    reading, writing = os.pipe()
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            os.setpgid(0, 0)
            # the programs that tests start find the tree from there, too
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
            os.chdir(folder)
            work(writing)
        finally:
            os._exit(KILLED)
    os.close(writing)
    with suppress(PermissionError, ProcessLookupError):  # it has done so itself
        os.setpgid(child, child)
    return child, reading, folder


def _bounded(work: Callable[[int], None], telling: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_SECONDS, MOST_CPU_SECONDS))
    work(telling)


def _run_tests(target: Target, plugin: object) -> None:
    """Run the target's tests in a process that is there for nothing else, and end it."""
    status = KILLED
    try:
        quiet = os.open(os.devnull, os.O_RDWR)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        selected = ["-k", target.selected] if target.selected else []
        code = pytest.main([*OPTIONS, "-m", target.marked, *selected, *target.tests], plugins=[plugin])
        if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            status = NO_TESTS
        elif code == pytest.ExitCode.OK:
            status = SURVIVED
    finally:
        os._exit(status)


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module, and gives it changed code."""

    def __init__(self, target: Target, mutant: Mutant) -> None:
        self._target = target
        self._mutant = mutant

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._target.module:
            return None
        return importlib.util.spec_from_file_location(name, self._target.file, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The usual one."""

    def exec_module(self, module: ModuleType) -> None:
        code = changed_code(self._target.file, self._mutant)
        exec(code, module.__dict__)  # noqa: S102 - the tree's own code with one change


class _Ordered:
    """A plugin: tests of these names come first, in their order. The name of a test that fails goes to ``telling``.

    They are found in the tree and run in ``folder``.
    """

    def __init__(self, first: Sequence[str], telling: int, folder: Path) -> None:
        self._places = {name: at for at, name in enumerate(first)}
        self._telling = telling
        self._folder = folder

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._places.get(item.nodeid, len(self._places)))
        os.chdir(self._folder)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self._telling, report.nodeid.encode()[:4000])


class _Calls:
    """The names of a file's functions that are called, those within others by the outermost."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        self.names: set[str] = set()

    def begin(self) -> None:
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def end(self) -> None:
        sys.settrace(None)
        threading.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_filename == self._file:
            self.names.add(frame.f_code.co_qualname.partition(".<locals>")[0])


class _Host:
    """A plugin: when the tests are collected it forks, once for the module as it is and once for each mutant.

    Writes lines of JSON: how long a mutant may take with the modules of other packages that the tests import, then for
    each mutant that changes a function its place and its End.
    """

    def __init__(self, target: Target, made: Sequence[Mutant], workers: int, telling: int) -> None:
        self._target = target
        self._made = made
        self._workers = workers
        self._telling = telling
        self._calls = _Calls(target.file)
        self._calls.begin()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._calls.end()
        # what is called while modules are imported has been run before any change
        early = set(self._calls.names)
        began = time.monotonic()
        child, reading, folder = _fork(partial(self._run_unchanged, session))
        with os.fdopen(reading, encoding="utf-8") as found:
            text = found.read()
        _, status = os.waitpid(child, 0)
        shutil.rmtree(folder, ignore_errors=True)
        if os.waitstatus_to_exitcode(status) != SURVIVED:
            self._tell(text or "what they share cannot be ended")
            return True
        called, imported = json.loads(text)
        patience = min(MOST_SECONDS, max(LEAST_SECONDS, TIMES_UNCHANGED * (time.monotonic() - began)))
        self._tell(patience, imported)
        self._run_mutants(session, called, early, patience)
        return True

    def _tell(self, *values: Any) -> None:
        with os.fdopen(self._telling, "w", encoding="utf-8", closefd=False) as line:
            line.write(json.dumps(values) + "\n")

    def _run_unchanged(self, session: pytest.Session, telling: int) -> None:
        """Writes the functions that each test calls, and the modules of other packages that they import."""
        called: dict[str, list[str]] = {}
        session.config.pluginmanager.register(_Ordered((), telling, Path.cwd()))
        for item in list(session.items):
            self._calls.names.clear()
            self._calls.begin()
            _run(session, [item])
            self._calls.end()
            called[item.nodeid] = sorted(self._calls.names)
        found = [name for name, module in sys.modules.items() if isinstance(module, ModuleType)]
        own = {*OWN, self._target.module.partition(".")[0]}
        imported = [name for name in found if name.partition(".")[0] not in own]
        with os.fdopen(telling, "w", encoding="utf-8") as text:
            json.dump((called, imported), text)
        _end(session)

    def _run_mutants(
        self, session: pytest.Session, called: dict[str, list[str]], early: set[str], patience: float
    ) -> None:
        items = {item.nodeid: item for item in session.items}
        killers: dict[str, list[str]] = {}
        functions = _changeable(self._target)
        # its objects are the children's, too, as long as no collection writes into them
        gc.collect()
        gc.freeze()

        def run(mutant: Mutant, telling: int) -> None:
            function = mutant.function or ""
            code = dict(functions_of(changed_code(self._target.file, mutant)))
            for name, objects in functions[function].items():
                for one in objects:
                    one.__code__ = code[name]
            callers = [name for name, names in called.items() if function in names]
            order = dict.fromkeys([*killers.get(function, ()), *callers, *items])
            session.config.pluginmanager.register(_Ordered((), telling, Path.cwd()))
            _run(session, [items[name] for name in order])
            _end(session)

        work = {
            at: partial(run, one)
            for at, one in enumerate(self._made)
            if one.function in functions and one.function not in early
        }
        for at, end in _forked(work, self._workers, patience):
            _note(killers.setdefault(self._made[at].function or "", []), end)
            self._tell(at, end.killed, end.by, end.hung)


def _run(session: pytest.Session, items: Sequence[pytest.Item]) -> None:
    """Run these in their order; where one fails, the process ends."""
    for at, item in enumerate(items):
        following = items[at + 1] if at + 1 < len(items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            _end(session)


def _end(session: pytest.Session) -> None:
    """End what the tests share, search what was written for secrets, and exit."""
    status = KILLED
    try:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED if session.testsfailed else pytest.ExitCode.OK
        session.config.hook.pytest_sessionfinish(session=session, exitstatus=session.exitstatus)
        if session.exitstatus == pytest.ExitCode.OK:
            status = SURVIVED
    finally:
        os._exit(status)


def _changeable(target: Target) -> dict[str, dict[tuple[str, int], list[FunctionType]]]:
    """The functions of the imported module whose code can be changed where they are: by name, then by place.

    Not those whose places are not clear, nor those that have made others that are about.
    """
    source = compile(target.file.read_text("utf-8"), str(target.file), "exec", dont_inherit=True)
    places = [place for place, _ in functions_of(source)]
    found: dict[str, dict[tuple[str, int], list[FunctionType]]] = {}
    unclear = {name for (name, line) in places if places.count((name, line)) > 1}
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename == str(target.file):
            name, _, within = one.__code__.co_qualname.partition(".<locals>")
            if within:
                unclear.add(name)
            else:
                found.setdefault(name, {}).setdefault((name, one.__code__.co_firstlineno), []).append(one)
    return {name: places for name, places in found.items() if name not in unclear}
