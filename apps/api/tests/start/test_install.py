"""The installer's question whether torch's index answers: over real sockets, and never for long."""

import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

INSTALLER = Path(__file__).parents[4] / "infra/install.py"


class Index(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/whl/cpu/torch/" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def index() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/whl/cpu/torch/"
        server.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def exit_code_of_probe(url: str) -> int:
    """In at most ten seconds; more is a failure."""
    command = [sys.executable, str(INSTALLER), "--probe", url]
    return subprocess.run(command, timeout=90, check=False).returncode


def test_an_index_that_has_torch_is_reachable(index: str) -> None:
    assert exit_code_of_probe(index) == 0


def test_an_index_without_torch_is_not(index: str) -> None:
    assert exit_code_of_probe(index.replace("torch", "tarch")) == 1


@pytest.mark.long
def test_a_silent_index_is_given_up_within_seconds(silent: str) -> None:
    assert exit_code_of_probe(silent) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://no-such-host.invalid/", "not a url"])
def test_what_cannot_be_reached_is_no_index(url: str) -> None:
    assert exit_code_of_probe(url) == 1


def test_the_installer_needs_the_standard_library_alone() -> None:
    command = [sys.executable, "-I", "-S", str(INSTALLER), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--without-local" in done.stdout
