"""`genai doctor`: each part that is there, and each that is not, with what to do."""

import json
import socket
from pathlib import Path

import pytest

from apps.core.errors import Unauthorized
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.ports import free_port
from apps.tests.support.processes import environment, heard, run_module
from apps.tests.support.redis_server import redis_server
from apps.tests.support.routing import HEALTHY, name, provider, routing_file
from apps.tests.support.serving import serving_models


def found(folder: Path, faults: bool, **changes: str) -> dict[str, tuple[str, str]]:
    """The status and the text of each check."""
    variables = environment(0, {"API_PORT": str(free_port()), **changes})
    done = heard(run_module("apps.cli.main", ["doctor", "--json"], folder, variables))
    assert (done.returncode, done.stderr) == (int(faults), ""), done.stdout
    return {check["name"]: (check["status"], check["text"]) for check in json.loads(done.stdout)}


def test_a_machine_that_has_everything_has_no_fault(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with redis_server(tmp_path) as redis, serving_models(local=ScriptedModel(saying("hi"), name="tiny")) as url:
        file = routing_file(tmp_path, {"providers": {"main": provider(url)}, "models": {"m": name(HEALTHY)}})
        checks = found(
            tmp_path,
            False,
            API_PORT=url.rpartition(":")[2],
            LOCAL_MODEL=str(tmp_path / "model"),
            GATEWAY_CONFIG=str(file),
            OPENAI_BASE_URL=f"{url}/v1",
            RATE_LIMIT_STORAGE=redis.url,
        )
    assert checks["port"] == ("ok", f"a service of ours answers at 127.0.0.1:{url.rpartition(':')[2]}")
    assert checks["local model"] == ("ok", "the folder has a checkpoint")
    assert checks["routing file"] == ("ok", "1 providers, 1 models")
    assert checks["cloud upstream"] == ("ok", "answers (HTTP 200)")
    assert checks["redis"] == ("ok", "answers")


def test_each_part_that_does_not_answer_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "routing.yaml").write_text("models: 1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        nobody = f"127.0.0.1:{free_port()}"
        checks = found(
            tmp_path,
            True,
            API_PORT=str(port),
            GATEWAY_CONFIG="routing.yaml",
            OPENAI_BASE_URL=f"http://{nobody}/v1",
            RATE_LIMIT_STORAGE=f"rediss://{nobody}",
            HF_ENDPOINT=f"http://{nobody}",
            LOCAL_MODEL="org/name",
            LOCAL_FALLBACK="packaged",
            DATABASE_URL=f"postgresql://someone@{nobody}/none",
            DATABASE_TIMEOUT="1",
        )
    assert checks["port"] == ("fault", f"127.0.0.1:{port}: Address already in use")
    assert checks["routing file"][0] == "fault" and "models" in checks["routing file"][1]
    assert checks["cloud upstream"] == ("fault", "cannot be reached: ConnectError")
    assert checks["redis"] == ("fault", "does not answer: ConnectionError")
    assert checks["local model"][0] == "note" and "the packaged model serves" in checks["local model"][1]
    assert checks["database"][0] == "fault"


def test_a_key_that_the_upstream_refuses_is_a_fault(tmp_path: Path) -> None:
    with serving_models(ScriptedModel(saying("hi")), auth="on") as url:
        checks = found(tmp_path, True, OPENAI_BASE_URL=f"{url}/v1")
    assert checks["cloud upstream"] == ("fault", f"refuses the key (HTTP {Unauthorized.status})")


@pytest.mark.parametrize("storage", ["redis+unix:///run/redis.sock", "redis+cluster://localhost:7000"])
def test_a_redis_that_cannot_be_tried_is_said_to_be_none_of_those(tmp_path: Path, storage: str) -> None:
    checks = found(tmp_path, True, RATE_LIMIT_STORAGE=storage)
    assert checks["redis"] == ("note", "Unix sockets and clusters are not tried here")
    checks = found(tmp_path, True, RATE_LIMIT_STORAGE=storage, CACHE_STORAGE=f"redis://127.0.0.1:{free_port()}")
    assert checks["redis"] == ("fault", "does not answer: ConnectionError")


@pytest.mark.skipif(not socket.has_ipv6, reason="this system has no IPv6")
def test_an_address_of_ipv6_is_free_too(tmp_path: Path) -> None:
    checks = found(tmp_path, True, API_HOST="::1", API_PORT=str(free_port()))
    assert checks["port"][0] == "ok"
