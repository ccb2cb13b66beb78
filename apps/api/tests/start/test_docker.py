"""The Dockerfile and the compose file: linted, and the image's own commands run for real, on a copy of its files."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from apps.core.settings import Settings
from apps.tests.marks import marked
from apps.tests.support.waiting import until
from apps.tests.watch import WATCH

ROOT = Path(__file__).parents[4]
DOCKERFILE = ROOT / "apps/api/Dockerfile"
COMPOSE = ROOT / "infra/docker-compose.yml"
TOOLS = Path(sys.executable).parent


def final_stage() -> str:
    return DOCKERFILE.read_text().rsplit("\nFROM ", 1)[1].replace("\\\n", " ")


def exec_form(instruction: str) -> list[str]:
    """The command of a CMD or HEALTHCHECK, which must be in exec form: a shell would not hand signals on."""
    found = re.search(rf"^{instruction}\b.*?(\[.*\])$", final_stage(), re.MULTILINE)
    assert found, f"{instruction} is not in exec form"
    command: list[str] = json.loads(found.group(1))
    assert command[0] == "python"
    return [sys.executable, *command[1:]]


def image_environment() -> dict[str, str]:
    (line,) = re.findall(r"^ENV (.*)$", final_stage(), re.MULTILINE)
    return dict(part.split("=", 1) for part in line.split())


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = run(str(TOOLS / "hadolint"), str(DOCKERFILE))
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_meets_the_compose_specification() -> None:
    done = run(str(TOOLS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE))
    assert done.returncode == 0, done.stdout


def test_compose_waits_longer_for_the_api_to_stop_than_the_api_takes() -> None:
    waits = int(compose()["services"]["api"]["stop_grace_period"].removesuffix("s"))
    assert waits > Settings.model_fields["shutdown_grace"].default + 5


def test_compose_starts_the_api_alone_and_redis_on_demand() -> None:
    services = compose()["services"]
    assert [name for name, service in services.items() if "profiles" not in service] == ["api"]
    assert services["redis"]["profiles"] == ["services", "fleet"]


def test_composes_fleet_is_replicas_and_apis_behind_a_proxy_that_share_what_they_keep() -> None:
    services = compose()["services"]
    fleet = {name for name, service in services.items() if "fleet" in service.get("profiles", ())}
    assert fleet == {"fleet-model", "fleet-api", "fleet-proxy", "redis", "postgres"}
    model, api = services["fleet-model"], services["fleet-api"]
    assert (model["deploy"]["replicas"], api["deploy"]["replicas"]) == (2, 2)
    assert "ports" not in model and "ports" not in api and model["image"] == services["api"]["image"]
    given = {name: str(value) for service in (model, api) for name, value in service["environment"].items()}
    assert {name.lower() for name in given} <= set(Settings.model_fields)
    assert given["LOCAL_URL"] == "dns://fleet-model:8000" and model["environment"]["SERVE_ROLE"] == "model"
    assert int(model["stop_grace_period"].removesuffix("s")) > Settings.model_fields["shutdown_grace"].default + 5
    conf = (ROOT / "infra/fleet/nginx.conf").read_text()
    assert "proxy_buffering off;" in conf and "set $api fleet-api:8000;" in conf
    assert "./fleet/nginx.conf:/etc/nginx/nginx.conf:ro" in services["fleet-proxy"]["volumes"]


def test_containers_run_without_rights_they_do_not_need() -> None:
    for service in compose()["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final_stage(), re.MULTILINE)


def test_the_build_context_holds_what_the_dockerfile_copies_and_no_secret() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    assert {source for line in copied for source in line.split()} <= allowed
    assert not [line for line in allowed if ".env" in line]


@contextmanager
def container(folder: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The image's command on a copy of the files that the image gets, with its environment and nothing installed."""
    ignored = shutil.ignore_patterns("tests", "__pycache__")
    shutil.copytree(ROOT / "apps", folder / "app/apps", ignore=ignored)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    own = {"PATH": os.environ["PATH"], "API_PORT": port, "MODEL_CACHE_DIR": str(folder / "cache"), "HOME": str(folder)}
    own |= {"DATA_DIR": str(folder / "data")}
    own |= {"LOCAL_MODEL": "./no-model", "LOCAL_FALLBACK": "none", "SHUTDOWN_GRACE": "1", "HF_HUB_OFFLINE": "1"}
    own |= {name: marked(name) for name in ("SECRET_KEY", "OPENAI_API_KEY")}
    environment = image_environment() | own
    with subprocess.Popen(
        exec_form("CMD"),
        cwd=folder / "app",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process, environment
        finally:
            process.kill()


def is_healthy(environment: dict[str, str]) -> bool:
    return subprocess.run(exec_form("HEALTHCHECK"), env=environment, capture_output=True, check=False).returncode == 0


@pytest.mark.long
def test_the_images_command_serves_health_and_ends_on_sigterm(tmp_path: Path) -> None:
    with container(tmp_path) as (process, environment):
        assert not is_healthy({**environment, "API_PORT": "1"})
        assert until(lambda: process.poll() is not None or is_healthy(environment))
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=90)
    WATCH.took("output of the image's command", output)
    assert process.returncode in (0, -signal.SIGTERM), output  # uvicorn ends by the signal that it was sent
    assert "Application shutdown complete" in output


@pytest.mark.long
def test_the_images_command_writes_nothing_beside_its_code(tmp_path: Path) -> None:
    with container(tmp_path) as (process, environment):
        before = sorted((tmp_path / "app").rglob("*"))
        assert until(lambda: is_healthy(environment))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=90)
    assert sorted((tmp_path / "app").rglob("*")) == before


def test_the_stop_signal_is_the_one_that_ends_the_api_gracefully() -> None:
    assert "STOPSIGNAL SIGTERM" in final_stage()


@pytest.mark.parametrize(
    ("name", "volume"), [("MODEL_CACHE_DIR", "models"), ("HF_HOME", "models"), ("HOME", "models"), ("DATA_DIR", "data")]
)
def test_what_is_written_lies_in_a_volume(name: str, volume: str) -> None:
    (line,) = re.findall(r"^VOLUME (.+)$", final_stage(), re.MULTILINE)
    (folder,) = [folder for folder in line.split() if image_environment()[name].startswith(folder)]
    assert f"{volume}:{folder}" in compose()["services"]["api"]["volumes"]
    assert volume in compose()["volumes"]
