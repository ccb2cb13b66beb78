"""`genai drill` and `genai docs sync`, in this process: what they try, and what they say of it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from apps.cli.drill import ATTACKS
from apps.cli.main import app
from apps.cli.remote import CommandFailure
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.serving import serving_models


def genai(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_models(local=ScriptedModel(saying("Hello"), name="scripted")) as address:
        yield address


@pytest.mark.long
def test_the_service_holds_in_a_drill(url: str) -> None:
    done = genai("drill", "--url", url, "--json", "--within", "60")
    told = json.loads(done.stdout)
    assert {one["status"] for one in told} == {"ok"}, told
    assert done.exit_code == 0 and len(told) == len(ATTACKS)


class Careless(BaseHTTPRequestHandler):
    """Takes everything, and says that all is well."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 1 << 20))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@pytest.mark.long
def test_a_service_that_takes_everything_fails_the_drill() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Careless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = genai("drill", "--url", f"http://127.0.0.1:{server.server_port}", "--json", "--within", "60")
        server.shutdown()
    told = {one["attack"]: one for one in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert (told["NaN for a number"]["status"], told["NaN for a number"]["found"]) == ("fault", "answered with 200")


def test_a_service_elsewhere_is_attacked_only_when_that_is_said() -> None:
    done = genai("drill", "--url", "http://service.invalid")
    assert isinstance(done.exception, CommandFailure)
    assert done.exception.code == 2 and "--yes" in str(done.exception)


@pytest.mark.local
@pytest.mark.long
def test_a_folder_is_synced_and_what_is_skipped_has_a_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    notes = tmp_path / "notes"
    notes.mkdir()
    assert genai("docs", "sync", str(notes), "-c", "work").exit_code == 0
    (notes / "empty.txt").write_text("")
    done = genai("docs", "sync", str(notes), "-c", "work")
    assert done.exit_code == 3
    assert done.stdout == "work: 0 added, 0 replaced, 0 deleted, 0 unchanged, 1 skipped\n"
    assert "Skipped empty.txt: it is empty" in done.stderr
    assert genai("docs", "sync", "nowhere", "-c", "work").exit_code == 2
