"""The packaged model answers while the asked-for one comes from a hub that sends when the test lets it.

In a process of its own, since huggingface_hub reads its settings at import.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from apps.local.checkpoint import DownloadProgress

NAME = "someone/tiny-llama"
REVISION = "c" * 40
SECONDS = 180

RUN = """
import asyncio, json, sys, urllib.request
from apps.core.deltas import collect
from apps.core.messages import ChatRequest, user_message
from apps.core.settings import Settings
from apps.local.model import LocalModel

hub = sys.argv[1]

async def main():
    model = LocalModel(Settings(_env_file=None, local_model=sys.argv[2]))
    await model.start()
    while model.readiness().state != "ready":
        await asyncio.sleep(0.02)
    early = model.readiness()
    first = await collect(model.stream(ChatRequest(user_message("What is Python?"), max_tokens=8)))
    # an answer under way when the other model takes over: it ends on the model that began it
    long = model.stream(ChatRequest(user_message("Tell a long story."), max_tokens=150))
    begun = [await anext(long)]
    await asyncio.to_thread(urllib.request.urlopen, hub + "/send")
    begun += [delta async for delta in long]
    late = await model.settled()
    second = await collect(model.stream(ChatRequest(user_message("What is Python?"), max_tokens=8)))
    await model.aclose()
    print(json.dumps({
        "early": [early.name, early.reason, early.details["fallback_reason"]], "first": first.model,
        "long": [begun[-1].finish_reason, begun[-1].model], "late": [late.state, late.name, late.reason],
        "second": second.model,
    }))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def checkpoint(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of two small layers with the packaged model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((packaged / name).read_bytes())
    return folder


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[tuple[str, threading.Event]]:
    """A hub that holds the weights back until its event is set, or /send is called."""
    send = threading.Event()
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            name = self.path.rsplit("/", 1)[-1].partition("?")[0]
            if self.path == "/send":
                send.set()
                self.answer(b"{}")
            elif "/tree/" in self.path:
                listed = [{"type": "file", "path": p, "size": len(b), "oid": "d" * 40} for p, b in files.items()]
                self.answer(json.dumps(listed).encode())
            elif self.path.startswith("/api/models/"):
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                info = {"id": NAME, "modelId": NAME, "sha": REVISION, "siblings": siblings}
                self.answer(json.dumps(info).encode())
            elif name in files:
                if name.endswith(".safetensors") and self.command == "GET":
                    send.wait(SECONDS)
                self.answer(files[name], {"ETag": f'"{name}"', "X-Repo-Commit": REVISION})
            else:
                self.send_error(404)

        def answer(self, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(200)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", send
    send.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.local
@pytest.mark.long
def test_the_packaged_model_answers_until_the_asked_for_one_is_here(
    packaged: Path, hub: tuple[str, threading.Event], tmp_path: Path
) -> None:
    address, _ = hub
    home = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "MODEL_CACHE_DIR": str(packaged.parent)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, address, NAME],
        env={**os.environ, **home, "HF_HUB_OFFLINE": "", "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["early"][0] == seen["first"] == "SmolLM2-135M-Instruct"
    assert seen["early"][1].startswith(f"Answers until {NAME} is here")
    assert seen["early"][2] == f"{NAME} is being fetched"
    assert seen["long"][0] in ("stop", "length")
    assert seen["long"][1] == "SmolLM2-135M-Instruct"
    assert seen["late"][:2] == ["ready", NAME]
    assert seen["second"] == NAME


def test_a_download_says_its_bytes_rate_and_time_left(tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(b"x" * 3_000_000)
    (tmp_path / "part.incomplete").write_bytes(b"x" * 1_000_000)
    progress = DownloadProgress("a/b", tmp_path, 10_000_000, lambda *_: None)
    told = progress.step(2_000_000, 2.0)
    assert told == ("downloading a/b: 0.00 of 0.01 GB (40%), 1.0 MB/s, 6 s left", 6.0, 4_000_000)
    unknown = DownloadProgress("a/b", tmp_path, 0, lambda *_: None)
    assert unknown.step(0, 2.0) == ("downloading a/b: 0.00 GB, 2.0 MB/s", None, 4_000_000)
    assert DownloadProgress("a/b", tmp_path / "none", 1, lambda *_: None).step(0, 1.0)[1] is None
