"""The official Node client against our gateway and against the upstream itself: equal answers, side by side."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream

CLIENT = "openai@6.49.0"
SCRIPT = Path(__file__).with_name("v1_client.mjs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script and the client that it imports."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed: apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("node")
    command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--no-save", CLIENT]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {CLIENT} here: {done.stderr.strip()[-300:]}")
    shutil.copy(SCRIPT, folder)
    return folder


@pytest.fixture(scope="module")
def url(mock: MockUpstream) -> Iterator[str]:
    local = ScriptedModel(saying("hi"), name="org/tiny")
    with serving_models(local=local, openai_base_url=mock.base_url, retry_attempts=1) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def ours(folder: Path, url: str) -> dict[str, Any]:
    return run(folder, url)


def run(folder: Path, url: str) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = ["node", SCRIPT.name, url]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.long
def test_our_answers_are_the_upstreams_answers(folder: Path, ours: dict[str, Any], mock: MockUpstream) -> None:
    # the mock's own list of models knows no single ones: failures are compared below
    direct = run(folder, mock.base_url)["answers"]
    assert set(ours["answers"]) == set(direct)
    for name, answer in direct.items():
        assert ours["answers"][name] == answer, name
    assert direct["assembled"][0]["function"]["arguments"] == '{"a": 1}'
    assert direct["streamed"][-1]["usage"]["total_tokens"] > 9
    assert direct["future"]["x_future"] == {"a": [1, None]}


@pytest.mark.parametrize(
    ("name", "kind", "status", "code"),
    [
        ("limited", "RateLimitError", 429, "rate_limit_exceeded"),
        ("broken", "InternalServerError", 500, "INTERNAL_ERROR"),
        ("unnamed", "BadRequestError", 400, "missing_required_parameter"),
        ("unlisted", "NotFoundError", 404, "model_not_found"),
        ("midway", "APIError", None, "UPSTREAM_ERROR"),
    ],
)
@pytest.mark.long
def test_failures_are_the_clients_own_classes(
    ours: dict[str, Any], name: str, kind: str, status: int | None, code: str
) -> None:
    failure = ours["failures"][name]
    assert (failure["class"], failure["status"], failure["code"]) == (kind, status, code)
    assert failure["type"]
    assert failure["seen"] is (name == "midway")


@pytest.mark.long
def test_the_list_of_models_can_be_read(ours: dict[str, Any]) -> None:
    assert {"org/tiny", "all-MiniLM-L6-v2", "gpt-4o-mini"} <= set(ours["models"])
