"""`genai drill` and `genai docs`, in this process: what they try, and what they say of it."""

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from apps.cli.docs import wait_for_job
from apps.cli.drill import ATTACKS
from apps.cli.main import app
from apps.cli.remote import CommandFailure, Service, print_table
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


class Limited(BaseHTTPRequestHandler):
    """Answers with the statuses and bodies of ``script`` in turn; a 429 asks to wait for its number."""

    script: Iterator[tuple[int, str]]

    def do_GET(self) -> None:
        status, text = next(self.script)
        body = (text if status == 200 else '{"error": {"message": "Rate limit exceeded"}}').encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@contextmanager
def limited(*script: tuple[int, str]) -> Iterator[str]:
    handler = type("Scripted", (Limited,), {"script": iter(script)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


RUNNING = (200, '{"status": "running", "files": []}')
DONE = (200, '{"status": "done", "files": []}')


def test_a_long_ingestion_is_asked_about_less_and_less_often_and_waits_out_a_limit() -> None:
    waits: list[float] = []
    with limited(*[RUNNING] * 8, (429, "7"), (429, "3"), DONE) as url:
        service = Service(url, patient=True, sleep=waits.append)
        assert wait_for_job(service, "one", quiet=True)["status"] == "done"
    assert waits[0] == 0.5 and waits[6:8] == [5, 5] and waits[8:] == [7, 3]
    assert waits[:8] == sorted(waits[:8])
    # of the 60 requests a minute that documents may make
    assert sum(waits[:8]) > 20


@pytest.mark.parametrize(("patient", "seconds"), [(False, "1"), (True, "3600"), (True, "soon")])
def test_a_limit_that_is_not_waited_out_fails_at_once(patient: bool, seconds: str) -> None:
    waits: list[float] = []
    with limited((429, seconds)) as url, pytest.raises(CommandFailure, match="try again in"):
        Service(url, patient=patient, sleep=waits.append).get("/rag/jobs/one")
    assert waits == []


def test_a_service_that_is_never_ready_for_a_call_is_given_up() -> None:
    waits: list[float] = []
    with limited(*[(429, "1")] * 20) as url, pytest.raises(CommandFailure, match="Rate limit exceeded"):
        Service(url, patient=True, sleep=waits.append).get("/rag/jobs/one")
    assert waits == [1] * 10


def test_the_list_of_commands_has_whole_sentences() -> None:
    listed = genai("--help").stdout.split("Commands:", 1)[1].splitlines()
    assert len(listed) > 10 and [line for line in listed if line.endswith("...")] == []


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_text_in_a_table_is_wrapped_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["one", "a b c d e f g h i j k l m n"], ["three", ""]]
    print_table(("name", "found"), rows)
    assert capsys.readouterr().out == "name   found\none    a b c d e f g h i j k l m n\nthree\n"
    monkeypatch.setenv("COLUMNS", "27")
    with contextlib.redirect_stdout(Screen()) as terminal:
        print_table(("name", "found"), rows)
    assert terminal.getvalue() == "name   found\none    a b c d e f g h i j\n       k l m n\nthree\n"
