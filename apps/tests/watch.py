"""Everything that the service writes while tests run, kept until a test is over and then searched for secrets.

What comes in: the logs of processes and of apps in this process, answers and metrics, traces that a collector gets,
outputs of commands, databases and whatever else lies in the folders of tests. What a test itself wrote there for the
service to read is told apart by its name (`INPUTS`).
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

from apps.tests.marks import MARKS, Marks, learn_environment, learn_file

# where secrets belong: settings that a test gives, and the file that the service keeps its own one in
ENV_FILE, OWN_SECRET = ".env", "secret_key"
INPUTS = (ENV_FILE, OWN_SECRET)
# no log or database of a test is as large; weights of models are
LARGEST_FILE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Finding:
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.what}: in {self.where}"


@dataclass(slots=True)
class Total:
    """What was searched in all."""

    pieces: int = 0
    bytes: int = 0
    seconds: float = 0.0
    skipped: int = 0


@dataclass(slots=True)
class Watch:
    """``took`` may be called by any thread; ``search`` empties what was taken."""

    marks: Marks = field(default_factory=lambda: MARKS)
    total: Total = field(default_factory=Total)
    _taken: list[tuple[str, bytes]] = field(default_factory=list)
    _folders: dict[Path, str] = field(default_factory=dict)
    _new: list[Path] = field(default_factory=list)
    _foreign: list[Path] = field(default_factory=list)
    _searched: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def took(self, where: str, data: bytes | str) -> None:
        if data:
            # surrogates are what a test makes of bytes that are no text
            raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
            with self._lock:
                self._taken.append((where, raw))

    def took_file(self, file: Path) -> None:
        """The log of a process that has ended: kept here, since its folder may go."""
        if file.exists():
            self.took(f"log {file.name}", file.read_bytes())

    def folder(self, path: Path) -> Path:
        """Searched when this test is over, and again at the end for what came later."""
        with self._lock:
            if path not in self._folders:
                self._folders[path] = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
                self._new.append(path)
        return path

    def foreign(self, path: Path) -> Path:
        """A folder of a program that is a caller here, as a browser: what that keeps is its own."""
        self._foreign.append(path)
        return path

    def search(self) -> list[Finding]:
        """In what came since it was asked last."""
        with self._lock:
            folders, self._new = self._new, []
        return self._search(folders)

    def search_all(self) -> list[Finding]:
        """In all folders, where a file is new or has changed."""
        return self._search(list(self._folders))

    def _search(self, folders: Iterable[Path]) -> list[Finding]:
        began = time.perf_counter()
        found = self._in_folders(folders)
        with self._lock:
            taken, self._taken = self._taken, []
        found += [finding for where, data in taken for finding in self._in(where, data)]
        self.total.seconds += time.perf_counter() - began
        return list(dict.fromkeys(found))

    def _in_folders(self, folders: Iterable[Path]) -> list[Finding]:
        files = [(folder, file) for folder in folders for file in self._files(folder)]
        for _, file in files:
            if file.name == OWN_SECRET:
                learn_file(file)
            elif file.name == ENV_FILE:
                learn_environment({name: value or "" for name, value in dotenv_values(file).items()})
        found: list[Finding] = []
        for folder, file in files:
            if file.name not in INPUTS and (data := self._changed(file)) is not None:
                of = f" (of {self._folders[folder]})" if self._folders[folder] else ""
                found += self._in(f"file {file.relative_to(folder.parent)}{of}", data)
        return found

    def _changed(self, file: Path) -> bytes | None:
        try:
            state = file.stat()
            mark = (state.st_size, state.st_mtime_ns)
            if self._searched.get(file) == mark:
                return None
            self._searched[file] = mark
            if state.st_size > LARGEST_FILE:
                self.total.skipped += 1
                return None
            return file.read_bytes()
        except FileNotFoundError:  # a database's file beside it, which goes when it is closed
            return None

    def _in(self, where: str, data: bytes) -> list[Finding]:
        self.total.pieces += 1
        self.total.bytes += len(data)
        found = self.marks.find(data)
        # a caller may have put it into the path that he asked for
        shown = "[withheld: a secret is in the name]" if found and self.marks.find(where.encode()) else where
        return [Finding(shown, what) for what in found]

    def _files(self, folder: Path) -> Iterator[Path]:
        for place, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if Path(place, name) not in self._foreign]
            for name in names:
                file = Path(place, name)
                if file.is_file() and not file.is_symlink():
                    yield file


WATCH = Watch()
