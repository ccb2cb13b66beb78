"""The app as its users start it: both commands, wrong settings, and what it says while it runs."""

import re
import socket
from pathlib import Path

import httpx2
import pytest

from apps.tests.support.processes import COMMANDS, run_to_end, running
from apps.tests.support.reading import envelope


@pytest.mark.parametrize("kind", COMMANDS)
def test_it_starts_without_a_key_and_without_a_model(kind: str, tmp_path: Path, http: httpx2.Client) -> None:
    with running(tmp_path, kind) as service:
        assert http.get(f"{service.url}/health").json() == {"status": "ok"}
        assert envelope(http.post(f"{service.url}/generate", json={"prompt": "hi"}))["code"] == "MODEL_UNAVAILABLE"
        ready = http.get(f"{service.url}/ready")
        assert ready.status_code == 503
        assert {model["route"] for model in ready.json()["models"]} >= {"/generate", "/local/generate"}
    log = service.log.read_text()
    assert "Traceback" not in log
    assert "Warning" not in log


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RETRY_ATTEMPTS", "many"),
        ("RATE_LIMIT_LOCAL", "20 a minute"),
        ("OPENAI_BASE_URL", "sk-secret"),
        ("OPENAI_BASE_URL", "http://host:sk-secret/v1"),
        ("OPENAI_API_KEY", "sk\u2028-secret"),
        ("ENV", "staging"),
        ("GATEWAY_CONFIG", "/no/such/file.yaml"),
        ("AGENTS_CONFIG", "/no/such/file.yaml"),
    ],
)
@pytest.mark.long
def test_a_wrong_setting_stops_the_start_with_one_clear_line(kind: str, name: str, value: str, tmp_path: Path) -> None:
    ended = run_to_end(tmp_path, kind, **{name: value})
    assert ended.returncode != 0
    lines = (ended.stdout + ended.stderr).strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"Wrong setting {name}: ")
    assert "secret" not in lines[0]


def test_the_env_file_counts_and_the_environment_wins(tmp_path: Path, http: httpx2.Client) -> None:
    (tmp_path / ".env").write_text("RATE_LIMIT_ENABLED=true\nRATE_LIMIT_HEALTH=7/minute\nMAX_PROMPT_CHARS=5\n")
    with running(tmp_path, RATE_LIMIT_ENABLED="true", RATE_LIMIT_HEALTH="3/minute") as service:
        assert http.get(f"{service.url}/health").headers["X-RateLimit-Limit"] == "3"
        error = envelope(http.post(f"{service.url}/generate", json={"prompt": "longer"}))
        assert error["message"] == "Prompt must be at most 5 characters"


def test_a_port_that_is_taken_is_said_and_is_the_end(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = run_to_end(tmp_path, API_PORT=str(listener.getsockname()[1]))
    assert ended.returncode != 0
    assert "address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_request_is_one_line_of_the_log_with_its_id(tmp_path: Path, http: httpx2.Client) -> None:
    with running(tmp_path) as service:
        http.get(f"{service.url}/health", headers={"X-Request-ID": "marked-id"})
        service.end()
    lines = [line for line in service.log.read_text().splitlines() if "GET /health" in line]
    assert len(lines) == 1
    assert re.fullmatch(
        r"[\dT:.-]+Z \[info     \] GET /health 200 [\d.]+ms \[apps.access\] request_id=marked-id", lines[0]
    )


def test_the_defaults_of_the_cloud_route_are_settings(tmp_path: Path, http: httpx2.Client) -> None:
    changes = {"DEFAULT_TEMPERATURE": "0.7", "DEFAULT_MAX_TOKENS": "1000", "DEFAULT_MODEL": "other"}
    with running(tmp_path, **changes) as service:
        page = http.get(f"{service.url}/openapi.json").json()
    cloud, local = (
        page["components"]["schemas"][name]["properties"] for name in ("GenerateRequest", "LocalGenerateRequest")
    )
    assert (cloud["temperature"]["default"], cloud["max_tokens"]["default"]) == (0.7, 1000)
    assert (local["temperature"]["default"], local["max_tokens"]["default"]) == (0.0, 500)
