"""Where the files come from. The hub is a closed port, a mute server or an honest small one, in its own process's
environment: huggingface_hub reads its settings at import."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from apps.local.checkpoint import CheckpointError, find_checkpoint, looks_like_folder, name_and_revision, revision_of
from apps.local.loading import hub_model
from apps.local.packaged import packaged_checkpoint

NAME = "someone/some-llama"
REVISION = "a" * 40
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}"}
TEMPLATE = "additional_chat_templates/tool_use.jinja"

FIND = """
import json, logging, os, sys
from pathlib import Path
from apps.local.checkpoint import CheckpointError, find_checkpoint
from apps.local.loading import hub_model
logging.basicConfig(format="%(levelname)s %(message)s")
if "MOST_BYTES_A_FILE" in os.environ:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["MOST_BYTES_A_FILE"]),) * 2)
try:
    found = find_checkpoint(sys.argv[1], sys.argv[2], Path(sys.argv[3]), hub_model)
    answer = {"name": found.name, "folder": str(found.folder), "reason": found.fallback_reason}
except CheckpointError as error:
    answer = {"error": str(error)}
print(json.dumps({**answer, "modules": sorted(sys.modules)}))
"""


def find(
    endpoint: str, home: Path, cache: Path, fallback: str = "none", name: str = NAME, **env: str
) -> tuple[dict[str, object], str]:
    """The answer of a fresh process, and its log."""
    done = subprocess.run(
        [sys.executable, "-c", FIND, name, fallback, str(cache)],
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "", **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rsplit("/", 1)[-1]
        if f"/api/models/{NAME}/tree/" in self.path:
            files = {
                **FILES,
                TEMPLATE: b"tools",
                "pytorch_model.bin": b"pickle",
                "modeling.py": b"code",
                "onnx/model.safetensors": b"x",
            }
            entries = [{"type": "file", "path": p, "size": len(b), "oid": "b" * 40} for p, b in files.items()]
            self.answer(200, json.dumps(entries).encode())
        elif self.path.startswith(f"/api/models/{NAME}/revision/"):
            if self.path.split("?")[0].rsplit("/", 1)[-1] in (REVISION, "main"):
                self.answer(200, json.dumps({"id": NAME, "modelId": NAME, "sha": REVISION, "siblings": []}).encode())
            else:
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif self.path.startswith(f"/api/models/{NAME}"):
            self.answer(200, json.dumps({"id": NAME, "modelId": NAME, "sha": REVISION, "siblings": []}).encode())
        elif self.path.startswith("/api/models/someone/denied"):
            self.answer(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif self.path.startswith("/api/models/someone/limited"):
            self.answer(429, b"{}")
        elif self.path.startswith("/api/models/"):
            self.answer(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif self.path.endswith(TEMPLATE):
            self.answer(200, b"tools", {"ETag": '"tool_use"', "X-Repo-Commit": REVISION})
        elif name in FILES:
            self.answer(200, FILES[name], {"ETag": f'"{name}"', "X-Repo-Commit": REVISION})
        else:
            self.answer(404, b"")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (Hub,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def checkpoint_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def test_machines_with_the_same_commit_agree_on_its_revision_and_a_folder_changes_with_its_times(
    tmp_path: Path,
) -> None:
    one, other = (checkpoint_folder(tmp_path / machine / "snapshots" / REVISION) for machine in ("a", "b"))
    later = checkpoint_folder(tmp_path / "a" / "snapshots" / ("b" * 40))
    own = checkpoint_folder(tmp_path / "own")
    before = revision_of(own)
    for folder in (other, own):
        os.utime(folder / "model.safetensors", (1, 1))
    assert revision_of(one) == revision_of(other) != revision_of(later)
    assert revision_of(own) != before


def test_a_folder_is_taken_as_it_is_and_named_by_its_own_name(tmp_path: Path) -> None:
    folder = checkpoint_folder(tmp_path / "my-llama")
    found = find_checkpoint(str(folder), "packaged", tmp_path, hub_model)
    assert (found.name, found.folder, found.fallback_reason) == ("my-llama", folder, None)


@pytest.mark.parametrize(
    ("present", "words"),
    [(None, "does not exist"), ([], "no config.json"), (["config.json"], "no *.safetensors weights")],
)
def test_a_wrong_folder_is_the_operators_mistake_and_never_falls_back(
    tmp_path: Path, present: list[str] | None, words: str
) -> None:
    folder = tmp_path / "llama"
    if present is not None:
        folder.mkdir()
        for name in present:
            (folder / name).write_text("{}")
    with pytest.raises(CheckpointError) as failed:
        find_checkpoint(str(folder), "packaged", tmp_path, hub_model)
    assert words in str(failed.value) and str(folder) in str(failed.value)


@pytest.mark.parametrize(
    "name", ["./llama", "~/no-such-llama", "models/tiny/llama", "C:\\models\\llama", "../no-such-model", "x/"]
)
def test_what_is_written_as_a_path_is_never_looked_up_on_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        find_checkpoint(name, "none", tmp_path, hub_model)


@pytest.mark.parametrize(
    ("local_model", "name", "revision"),
    [
        ("someone/llama", "someone/llama", None),
        ("llama@v1", "llama", "v1"),
        ("someone/llama@refs/pr/3", "someone/llama", "refs/pr/3"),
        ("someone/llama@feature/a@b", "someone/llama", "feature/a@b"),
    ],
)
def test_a_branch_may_have_slashes(local_model: str, name: str, revision: str | None) -> None:
    assert not looks_like_folder(local_model)
    assert name_and_revision(local_model) == (name, revision)


@pytest.mark.local
def test_an_unreachable_hub_without_fallback_is_a_failure_that_says_what_to_do(tmp_path: Path) -> None:
    answer, _ = find(closed_port(), tmp_path / "hf", tmp_path)
    assert "the hub cannot be reached" in str(answer["error"])
    assert "LOCAL_FALLBACK=none" in str(answer["error"])


@pytest.mark.local
@pytest.mark.long
def test_a_hub_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as mute:
        answer, _ = find(f"http://127.0.0.1:{mute.getsockname()[1]}", tmp_path / "hf", tmp_path)
    assert "no answer within 4 seconds" in str(answer["error"]) or "Timeout" in str(answer["error"])


@pytest.mark.local
def test_offline_mode_asks_nobody(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    endpoint, asked = hub
    answer, _ = find(endpoint, tmp_path / "hf", tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in str(answer["error"])
    assert asked == []


@pytest.mark.local
def test_an_unreachable_hub_gives_the_packaged_model_and_one_warning_that_names_both(
    tmp_path: Path, packaged: Path
) -> None:
    answer, logged = find(closed_port(), tmp_path / "hf", packaged.parent, "packaged")
    assert (answer["name"], answer["folder"]) == ("SmolLM2-135M-Instruct", str(packaged_checkpoint(packaged.parent)))
    assert NAME in str(answer["reason"])
    warnings = [line for line in logged.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert all(word in warnings[0] for word in (NAME, "SmolLM2-135M-Instruct", "LOCAL_FALLBACK=none"))
    assert "torch" not in answer["modules"]  # type: ignore[operator]


@pytest.mark.local
@pytest.mark.long
def test_the_hub_gives_weights_config_and_tokenizer_and_neither_pickle_nor_code(
    tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    endpoint, asked = hub
    answer, _ = find(endpoint, tmp_path / "hf", tmp_path)
    assert answer.get("name") == NAME, answer
    folder = Path(str(answer["folder"]))
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == FILES
    assert [file.relative_to(folder).as_posix() for file in folder.rglob("*/*")] == [TEMPLATE]
    assert not [path for path in asked if path.endswith((".bin", ".py")) or "onnx" in path]
    # the second start needs no network
    asked.clear()
    again, _ = find(closed_port(), tmp_path / "hf", tmp_path)
    assert again["folder"] == answer["folder"]


@pytest.mark.local
def test_a_revision_is_asked_for_and_kept_and_is_no_part_of_the_models_name(
    tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    endpoint, asked = hub
    answer, _ = find(endpoint, tmp_path / "hf", tmp_path, name=f"{NAME}@{REVISION}")
    assert answer.get("name") == NAME, answer
    assert Path(str(answer["folder"])).name == REVISION
    assert (Path(str(answer["folder"])) / TEMPLATE).read_bytes() == b"tools"
    weights = [path for path in asked if path.endswith("model.safetensors")]
    assert weights and all(f"/resolve/{REVISION}/" in path for path in weights)
    other, _ = find(endpoint, tmp_path / "hf", tmp_path, "packaged", f"{NAME}@refs/pr/9")
    assert f"{NAME} has no revision refs/pr/9 on the hub" in str(other["error"])


@pytest.mark.local
def test_a_name_that_the_hub_does_not_know_is_the_operators_mistake_and_never_falls_back(
    tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    answer, _ = find(hub[0], tmp_path / "hf", tmp_path, "packaged", "someone/typo")
    assert "someone/typo does not exist on the hub" in str(answer["error"])


@pytest.mark.local
@pytest.mark.parametrize(
    ("name", "words"),
    [("someone/denied", ["401", "check HF_TOKEN"]), ("someone/limited", ["429", "start again later"])],
)
def test_a_hub_that_answers_no_was_reached_and_nothing_falls_back(
    tmp_path: Path, hub: tuple[str, list[str]], name: str, words: list[str]
) -> None:
    answer, _ = find(hub[0], tmp_path / "hf", tmp_path, "packaged", name)
    error = str(answer["error"])
    assert f"LOCAL_MODEL={name} cannot be had from the hub" in error and "cannot be reached" not in error
    assert all(word in error for word in words)


@pytest.mark.local
def test_a_tls_connection_that_cannot_be_made_is_a_failure(tmp_path: Path) -> None:
    def answer_in_clear(server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.recv(4096)
                client.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_in_clear, args=(server,))
        thread.start()
        answer, _ = find(f"https://127.0.0.1:{server.getsockname()[1]}", tmp_path / "hf", tmp_path, "packaged")
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert "SSL" in str(answer["error"]) and "cannot be reached" not in str(answer["error"])


@pytest.mark.local
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of a file")
def test_a_download_that_cannot_be_written_is_a_failure(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    answer, _ = find(hub[0], tmp_path / "hf", tmp_path, "packaged", MOST_BYTES_A_FILE="4")
    error = str(answer["error"])
    assert "the download broke off: OSError" in error and "File too large" in error
    assert "cannot be reached" not in error


@pytest.mark.local
def test_a_full_disk_is_told_with_what_helps() -> None:
    from apps.local.hub import _judged

    judged = _judged(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), NAME, "the download broke off")
    assert isinstance(judged, CheckpointError)
    assert "No space left on device" in str(judged) and "HF_HOME" in str(judged)


@pytest.mark.local
def test_a_name_that_cannot_be_one_is_a_failure(tmp_path: Path) -> None:
    answer, _ = find(closed_port(), tmp_path / "hf", tmp_path, "packaged", "not a name!")
    assert "neither a folder nor a valid hub name" in str(answer["error"])


def test_nothing_waits_longer_than_its_deadline() -> None:
    from apps.local.hub import _within

    over = threading.Event()
    with pytest.raises(TimeoutError):
        _within(0.1, lambda: over.wait(600))
    over.set()
