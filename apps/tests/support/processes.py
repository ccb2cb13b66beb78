"""Real processes of the service, started as its users start them, each on a free port."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2

from apps.tests.marks import PROVIDERS_VARIABLE, learn_environment, marked
from apps.tests.overheard import hearing_client
from apps.tests.support.fork_server import FORKS, MEASURED, Forked, fork
from apps.tests.support.migrated import lay_sqlite
from apps.tests.support.ports import free_port
from apps.tests.support.waiting import HANG_SECONDS, until
from apps.tests.watch import WATCH

ROOT = Path(__file__).parents[3]
COMMANDS = ("uvicorn", "module")
KEPT = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "SSL_CERT_FILE", MEASURED)
"""Of this machine's environment."""
LIMITED = """
import os, resource, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
os.execv(sys.argv[2], sys.argv[2:])
"""
Process = subprocess.Popen[bytes] | Forked


@dataclass(slots=True)
class Running:
    process: Process
    url: str
    log: Path

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Send SIGTERM and wait for the end."""
        self.terminate()
        self.process.wait(HANG_SECONDS)


def command(kind: str, port: int) -> list[str]:
    """The seed's command, and the one of `make run`."""
    if kind == "module":
        return [sys.executable, "-m", "apps.api.src.main"]
    return [sys.executable, "-m", "uvicorn", "apps.api.src.main:app", "--host", "127.0.0.1", "--port", str(port)]


def environment(port: int, changes: dict[str, str]) -> dict[str, str]:
    """No settings of this machine, no model to load; `.env` and DATA_DIR are the test's own (see ``folder``).

    Secrets are marked ones, but for those of the test's own; all of them are looked for in what the process writes.
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    quiet = {"LOCAL_FALLBACK": "none", "LOCAL_MODEL": "/no/such/folder", "HF_HUB_OFFLINE": "1", "DATA_DIR": "data"}
    address = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "PYTHONPATH": str(ROOT)}
    given = {
        **quiet,
        **address,
        **_secrets(changes),
        "RATE_LIMIT_ENABLED": "false",
        "DATABASE_TIMEOUT": "60",
        **changes,
    }
    learn_environment(given)
    return {**kept, **given}


def _secrets(changes: dict[str, str]) -> dict[str, str]:
    given = {"SECRET_KEY": marked("SECRET_KEY"), PROVIDERS_VARIABLE: marked("provider's key")}
    given["OTEL_EXPORTER_OTLP_HEADERS"] = f"authorization=Bearer {marked('collector key')}"
    # without an address of its own a key would turn the real upstream on
    return given | ({"OPENAI_API_KEY": marked("OPENAI_API_KEY")} if "OPENAI_BASE_URL" in changes else {})


@contextmanager
def running(folder: Path, kind: str = "module", **changes: str) -> Iterator[Running]:
    """The service in ``folder`` (its `.env` counts), up and answering; killed at the end if it is still there.

    ``DESCRIPTORS`` among the changes is no setting: the system gives the process no more files and connections.
    """
    port = free_port()
    log = folder / f"log-{port}"
    if not changes.keys() & {"DATABASE_URL", "DATA_DIR"} and not (folder / "data").exists():
        lay_sqlite(folder / "data")
    most = changes.pop("DESCRIPTORS", None)
    variables = environment(port, changes)
    if kind == "module":
        process = start("apps.api.src.main", [], folder, variables, log, int(most or 0))
    else:
        process = _popen(command(kind, port), folder, variables, log, int(most or 0))
    try:
        _wait_for(process, port, log)
        yield Running(process, f"http://127.0.0.1:{port}", log)
        if process.poll() is None:
            hear_metrics(f"http://127.0.0.1:{port}")
    finally:
        end(process)
        WATCH.took_file(log)


def end(process: Process) -> None:
    """Kill it; under make coverage it first has the time to write down what it ran."""
    if MEASURED in os.environ:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(HANG_SECONDS)
    process.kill()
    process.wait()


def start(
    module: str, arguments: Sequence[str], folder: Path, variables: dict[str, str], log: Path, files: int = 0
) -> Process:
    """Start ``python -m module arguments`` in ``folder``; both of its outputs go to ``log``.

    ``files`` bounds its files and connections, where it is not 0.
    """
    if FORKS:
        return fork(module, arguments, folder, variables, (log, log), files=files)
    variables = {"PYTHONPATH": str(ROOT), **variables}
    return _popen([sys.executable, "-m", module, *arguments], folder, variables, log, files)


def _popen(command: list[str], folder: Path, variables: dict[str, str], log: Path, files: int) -> Process:
    limited = [sys.executable, "-c", LIMITED, str(files)] if files else []
    with log.open("ab") as output:
        return subprocess.Popen([*limited, *command], cwd=folder, env=variables, stdout=output, stderr=output)


def hear_metrics(url: str) -> None:
    """What a test left in the metrics is looked through, whether or not it asked for them."""
    with suppress(httpx2.TransportError), hearing_client(timeout=2) as client:  # who is leaving need not answer
        client.get(f"{url}/metrics")


def _wait_for(process: Process, port: int, log: Path) -> None:
    until(lambda: process.poll() is not None or _listens(port))
    if process.poll() is not None or not _listens(port):
        raise AssertionError(f"did not start: {log.read_text()}")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def run_to_end(folder: Path, kind: str = "module", **changes: str) -> subprocess.CompletedProcess[str]:
    """Start the service where it is expected to give up."""
    port = free_port()
    variables = environment(port, changes)
    if FORKS and kind == "module":
        return heard(run_module("apps.api.src.main", [], folder, variables))
    return heard(
        subprocess.run(
            command(kind, port), cwd=folder, env=variables, capture_output=True, text=True, timeout=HANG_SECONDS
        )
    )


def run_module(
    module: str, arguments: Sequence[str], folder: Path, variables: dict[str, str], text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module arguments`` to its end, with ``text`` on standard input."""
    command = [sys.executable, "-m", module, *arguments]
    if not FORKS:
        return subprocess.run(
            command,
            cwd=folder,
            env=variables,
            input=text,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
    with tempfile.TemporaryDirectory() as kept:
        outputs = (Path(kept, "out"), Path(kept, "err"))
        given = Path(kept, "in")
        given.write_text(text, "utf-8")
        process = fork(module, arguments, folder, variables, outputs, text=given)
        try:
            code = process.wait(HANG_SECONDS)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, code, *(output.read_text("utf-8") for output in outputs))


def heard(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """Its outputs are looked through, too."""
    WATCH.took("standard output of a command", done.stdout)
    WATCH.took("standard error of a command", done.stderr)
    return done
