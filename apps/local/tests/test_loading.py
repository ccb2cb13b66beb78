"""The whole local model in processes of its own: what is imported when, how a load ends, how soon it can answer."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

RUN = """
import asyncio, json, logging, sys, time
logging.basicConfig(format="%(levelname)s %(message)s")
from apps.core.deltas import collect
from apps.core.errors import AppError
from apps.core.messages import ChatRequest, user_message
from apps.core.settings import Settings
from apps.local.model import LocalModel

async def main():
    model = LocalModel(Settings(_env_file=None))
    imported = [name for name in ("torch", "transformers", "tokenizers") if name in sys.modules]
    await model.start()
    started = {"imported": imported, "state": model.readiness().state}
    readiness = await model.settled()
    try:
        answer = await collect(model.stream(ChatRequest(user_message("What is Python?"), max_tokens=20)))
        result = {"text": answer.text, "model": answer.model, "finish": answer.finish_reason}
    except AppError as error:
        result = {"error": error.code, "message": error.message}
    await model.aclose()
    print(json.dumps({**started, **result, "ready": readiness.state, "reason": readiness.reason,
        "name": readiness.name, "details": dict(readiness.details)}))

asyncio.run(main())
"""

HIDING = """
import importlib.machinery, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else super().find_spec(name, path, target)
sys.meta_path = [Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""


def run(code: str, cache: Path, **env: str) -> tuple[dict[str, object], str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "HF_ENDPOINT": closed, "HF_HOME": str(cache / "hf"), "MODEL_CACHE_DIR": str(cache), **env},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("missing", [["jinja2"], ["numpy", "tokenizers", "jinja2", "huggingface_hub"]])
@pytest.mark.long
def test_without_the_local_requirements_the_model_is_not_configured_and_names_the_command(
    tmp_path: Path, missing: list[str]
) -> None:
    result, _ = run(HIDING.format(names=missing) + RUN, tmp_path)
    assert (result["ready"], result["error"]) == ("not_configured", "MODEL_UNAVAILABLE")
    for words in (result["reason"], result["message"]):
        assert "pip install -r requirements-local.txt" in str(words) and "make setup" in str(words)
    assert all(name in str(result["reason"]) for name in missing)


@pytest.mark.local
@pytest.mark.long
def test_without_a_hub_the_packaged_model_answers_under_its_own_name(packaged: Path) -> None:
    result, logged = run(RUN, packaged.parent)
    assert (result["imported"], result["state"]) == ([], "loading")
    assert (result["ready"], result["name"], result["model"]) == ("ready", *["SmolLM2-135M-Instruct"] * 2)
    assert "programming language" in str(result["text"])
    details = result["details"]
    assert isinstance(details, dict)
    assert details["requested_model"] == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert "hub cannot be reached" in details["fallback_reason"]
    assert (details["engine"], details["context_length"]) == ("batching", 8192)
    assert logged.count("WARNING") == 1


@pytest.mark.local
@pytest.mark.long
def test_a_folder_is_served_under_the_folders_name(packaged: Path, tmp_path: Path) -> None:
    (tmp_path / "my-llama").symlink_to(packaged)
    result, logged = run(RUN, tmp_path, LOCAL_MODEL=str(packaged))
    assert (result["ready"], result["name"]) == ("ready", packaged.name)
    assert "WARNING" not in logged


@pytest.mark.local
@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"LOCAL_FALLBACK": "none"}, "LOCAL_FALLBACK=none"),
        ({"LOCAL_MODEL": "/no/such/folder"}, "does not exist"),
    ],
)
@pytest.mark.long
def test_what_cannot_be_served_is_failed_with_its_reason(tmp_path: Path, env: dict[str, str], words: str) -> None:
    result, _ = run(RUN, tmp_path, **env)
    assert (result["ready"], result["error"]) == ("failed", "MODEL_UNAVAILABLE")
    assert words in str(result["reason"])


@pytest.mark.local
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.long
def test_a_broken_file_of_the_checkpoint_is_failed_with_its_reason(packaged: Path, tmp_path: Path, file: str) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in packaged.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / file).unlink()
    (folder / file).write_bytes(b'{"broken": ')
    result, _ = run(RUN, tmp_path, LOCAL_MODEL=str(folder))
    assert (result["ready"], result["error"]) == ("failed", "MODEL_UNAVAILABLE")
    assert "broken" in str(result["reason"])


@pytest.mark.local
@pytest.mark.parametrize("after", [0.0, 0.4, 1.5, 2.5])
@pytest.mark.long
def test_a_process_that_ends_while_it_loads_ends_cleanly(packaged: Path, after: float) -> None:
    code = RUN[: RUN.index("async def main")] + textwrap.dedent(f"""
        async def main():
            model = LocalModel(Settings(_env_file=None))
            await model.start()
            await asyncio.sleep({after})
            await model.aclose()
            print(json.dumps({{"closed": True}}))

        asyncio.run(main())
    """)
    result, logged = run(code, packaged.parent)
    assert result == {"closed": True}
    assert "Traceback" not in logged
