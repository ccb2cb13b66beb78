"""Clients in environments of their own, each a script: their packages and this service's do not go together.

`make test-clients` makes the environments. The scripts assert what is right; one that fails shows its output here.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta, ToolCallDelta
from apps.core.messages import ChatRequest
from apps.local.prompt import text_of
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.processes import running
from apps.tests.support.serving import serving_models
from apps.tests.support.waiting import HANG_SECONDS
from eval.mock_upstream import MockUpstream

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
PROGRAM = "Scripts/python.exe" if os.name == "nt" else "bin/python"
PYTHON = Path(os.environ.get("CLIENTS_PYTHON", ROOT / ".cache" / "clients" / "python" / PROGRAM))
AIDER = Path(os.environ.get("CLIENTS_AIDER", ROOT / ".cache" / "clients" / "aider" / PROGRAM)).with_name(
    "aider.exe" if os.name == "nt" else "aider"
)
MODULES = Path(os.environ.get("CLIENTS_MODULES", ROOT / ".cache" / "clients" / "javascript" / "node_modules"))
SCRIPTS = sorted(path.name for path in (HERE / "python").glob("*.py") if path.name != "support.py")
PROGRAMS = sorted(path.name for path in (HERE / "javascript").glob("*.js") if path.name != "support.js")
SINCE_3_14 = "import sys; sys.exit(sys.version_info >= (3, 14))"
PACKAGED = {"LOCAL_MODEL": "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "LOCAL_FALLBACK": "packaged"}
PERSON = {"name": "Ada", "age": 36}
# what aider is to write into a file
FILE, EDITED = "greeting.py", 'print("Hello there.")\n'


def answering(request: ChatRequest) -> Sequence[Step]:
    """Calls the tool that there is, says what came of it, keeps to a form, or greets."""
    end = Delta(finish_reason="stop", usage=Usage(7, 3), model="tiny")
    if request.messages[-1].role == "tool":
        return [Delta("It is sunny ", model="tiny"), Delta("in Paris."), end]
    if request.tools and request.tool_choice != "none":
        name = request.tools[0]["function"]["name"] if "function" in request.tools[0] else request.tools[0]["name"]
        given = {"city": "Paris"} if "weather" in name.lower() else PERSON
        called = Delta(tool_calls=(ToolCallDelta(0, "call_1", name, json.dumps(given)),), model="tiny")
        return [called, Delta(finish_reason="tool_calls", usage=Usage(7, 3), model="tiny")]
    if FILE in text_of(request.messages[-1]):
        edit = f"{FILE}\n```\n{EDITED}```\n"
        return [Delta(edit, model="tiny"), end]
    if request.response_format is not None:
        return [Delta(json.dumps(PERSON), model="tiny"), end]
    return [Delta("Hello ", model="tiny"), Delta("there."), end]


@pytest.fixture(scope="module")
def scripted(mock: MockUpstream) -> Iterator[str]:
    model = ScriptedModel(answering, name="tiny")
    with serving_models(local=model, openai_base_url=mock.base_url, retry_attempts=1, auth="off") as url:
        yield url


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The base URL of a service with the packaged model, and its name."""
    folder = tmp_path_factory.mktemp("packaged")
    with running(folder, AUTH="off", **PACKAGED) as service, httpx2.Client(timeout=HANG_SECONDS) as http:
        while True:
            models = http.get(f"{service.url}/ready").json()["models"]
            (local,) = (model for model in models if model["route"] == "/local/generate")
            if local["status"] != "loading":
                break
        assert local["status"] == "ready", local
        yield service.url, local["name"]


def run(command: Sequence[str | Path], scripted: str, packaged: tuple[str, str], folder: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PACKAGED_NAME": packaged[1]}
    # none of them may tell anybody of its use
    environment |= {"DO_NOT_TRACK": "1", "HAYSTACK_TELEMETRY_ENABLED": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [*command, scripted, packaged[0]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3 * HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_client(script: str, scripted: str, packaged: tuple[str, str], tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("make test-clients makes the environment of these clients")
    if script.startswith("semantic_kernel") and subprocess.run([PYTHON, "-c", SINCE_3_14], check=False).returncode:
        pytest.skip("Semantic Kernel 1.45 cannot read a union in a tool's signature on Python 3.14")
    run([PYTHON, HERE / "python" / script], scripted, packaged, tmp_path)


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_aider_edits_a_file(stream: str, scripted: str, tmp_path: Path) -> None:
    if not AIDER.exists():
        pytest.skip("make test-clients installs aider, where its Python is not newer than 3.12")
    (tmp_path / FILE).write_text("print()\n")
    quiet = ["--no-git", "--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings"]
    place = ["--openai-api-base", f"{scripted}/v1", "--openai-api-key", "unused", "--model", "openai/tiny"]
    asked = ["--edit-format", "whole", "--message", f"Greet in {FILE}", stream, FILE]
    done = subprocess.run(
        [AIDER, *quiet, *place, *asked],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=3 * HANG_SECONDS,
        stdin=subprocess.DEVNULL,
    )
    assert (tmp_path / FILE).read_text() == EDITED, done.stdout[-3000:] + done.stderr[-6000:]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_javascript_client(program: str, scripted: str, packaged: tuple[str, str], tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not MODULES.exists():
        pytest.skip("make test-clients installs these clients, where there is Node (Debian: apt-get install npm)")
    for source in (HERE / "javascript").glob("*.js*"):
        shutil.copy(source, tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES)
    run([node, tmp_path / program], scripted, packaged, tmp_path)
