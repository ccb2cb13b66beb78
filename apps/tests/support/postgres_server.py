"""A real PostgreSQL from Debian's package, on a free port and as a user without rights, while a test needs it."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from apps.tests.marks import marked
from apps.tests.support.ports import free_port
from apps.tests.support.waiting import HANG_SECONDS, until
from apps.tests.watch import WATCH

PASSWORD = marked("password of PostgreSQL")
USER = "genai"
FIRST_OF_USERS = 16384
# what a server does by the way for months of work: databases of tests live for seconds
OPTIONS = (
    *("max_connections=100", "autovacuum=off", "checkpoint_timeout=1h", "max_wal_size=16GB"),
    *("wal_level=minimal", "max_wal_senders=0", "full_page_writes=off"),
)


def _programs() -> Path | None:
    """The newest of Debian's versions; they are not in PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    in_path = shutil.which("initdb")
    return Path(in_path).resolve().parent if in_path else None


PROGRAMS = _programs()
needs_postgres = pytest.mark.skipif(
    PROGRAMS is None, reason="PostgreSQL is not installed (Debian: apt-get install postgresql)"
)


@dataclass(slots=True)
class PostgresServer:
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    made_by: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, name: str) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        assert PROGRAMS is not None
        command = [str(PROGRAMS / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", str(self.folder), "-F"]
        command += [part for option in OPTIONS for part in ("-c", option)]
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **_without_rights()
        )
        self.process = process
        assert until(lambda: process.poll() is not None or self._is_ready()), "PostgreSQL did not start"
        assert process.poll() is None, "PostgreSQL ended"

    def _is_ready(self) -> bool:
        return not self._program("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)).returncode

    def stop(self) -> None:
        """At once: connections are cut, nothing committed is lost."""
        if self.process is not None:
            self.resume()
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(90)
            self.process = None

    def kill(self) -> None:
        """SIGKILL to the server and all of its processes: it recovers from its log at the next start."""
        if self.process is not None:
            pids = self._pids()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(90)
            self.process = None
            # one that is still leaving holds the shared memory, and a new server would not start beside it
            assert until(lambda: not any(_is_running(pid) for pid in pids))

    def freeze(self) -> None:
        """SIGSTOP to the server and all of its processes: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def create(self, name: str, template: str = "template1") -> str:
        """A new database, as empty as its template; returns its URL. A failed test may have left the server frozen."""
        self.resume()
        self.psql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        self.made_by[name] = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        return self.url_of(name)

    def psql(self, statement: str, name: str = "postgres") -> str:
        done = self._program("psql", "-X", "-q", "-A", "-t", "-c", statement, self.url_of(name))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def dump(self, name: str) -> str:
        done = self._program("pg_dump", self.url_of(name))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def hear(self) -> None:
        """Every table and index of every database, as it lies on the disk."""
        self.resume()
        if self.process is None:
            self.start()
        self.psql("CHECKPOINT")
        for line in self.psql("SELECT oid, datname FROM pg_database").splitlines():
            oid, _, name = line.partition("|")
            for file in (self.folder / "data/base" / oid).glob("[0-9]*"):
                # PostgreSQL's own are below
                if int(re.split("[._]", file.name)[0]) >= FIRST_OF_USERS:
                    WATCH.took(f"PostgreSQL's {name} of {self.made_by.get(name, 'nobody')}", file.read_bytes())

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids():
            with suppress(ProcessLookupError):  # a process of a connection that has just ended
                os.kill(pid, number)

    def _pids(self) -> list[int]:
        if self.process is None:
            return []
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return [self.process.pid, *map(int, listed.stdout.split())]

    def _program(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert PROGRAMS is not None
        command = [str(PROGRAMS / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_SECONDS)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Up and empty; each database of `create` is on its own. Durability is off: only the machine's crash would tell."""
    assert PROGRAMS is not None
    # a folder of its own under /tmp, since the path of a socket may have 107 characters at most
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        password = folder / "password"
        password.write_text(PASSWORD)
        if _without_rights():
            shutil.chown(folder, "postgres")
            shutil.chown(password, "postgres")
        subprocess.run(
            [
                *(str(PROGRAMS / "initdb"), "-D", str(folder / "data"), "-U", USER, "-N", "-E", "UTF8", "--locale=C"),
                *("--auth=scram-sha-256", f"--pwfile={password}"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            **_without_rights(),
        )
        server = PostgresServer(folder, free_port())
        server.start()
        try:
            yield server
            server.hear()
        finally:
            server.stop()


def _is_running(pid: int) -> bool:
    """Whether it is there, and no zombie that only waits to be counted."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _without_rights() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    return {"user": "postgres", "group": "postgres", "cwd": "/"} if os.geteuid() == 0 else {}
