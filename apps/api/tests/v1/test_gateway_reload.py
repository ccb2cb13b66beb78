"""SIGHUP: a real process takes a new routing file while it serves, and keeps the old one where the new is wrong."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.api.src.wiring.gateway import build_gateway
from apps.gateway.routing.config import GatewayConfigError
from apps.models.scripted import ScriptedModel, saying
from apps.tests.overheard import hearing_client
from apps.tests.support.processes import start
from apps.tests.support.reloading import ReloadingService
from apps.tests.support.routing import ASK, HEALTHY, name, provider, routing_file
from apps.tests.support.serving import settings
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream, mock_upstream

CHAT = "/v1/chat/completions"

PATIENT = {"connect": 60, "first_token": 60, "between_tokens": 60, "total": 120}


class Service(ReloadingService):
    def ask(self, model: str, stream: bool = False) -> httpx2.Response:
        with hearing_client(timeout=90) as client:
            return client.post(self.url + CHAT, json={"model": model, "stream": stream, **ASK})


@pytest.fixture
def other() -> Iterator[MockUpstream]:
    with mock_upstream(tokens=3) as running:
        yield running


@pytest.fixture
def service(mock: MockUpstream, tmp_path: Path) -> Iterator[Service]:
    file = routing_file(tmp_path, to(mock))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    given = {
        "API_HOST": "127.0.0.1",
        "API_PORT": str(port),
        "GATEWAY_CONFIG": str(file),
        "LOCAL_MODEL": str(tmp_path / "none"),
        "LOCAL_FALLBACK": "none",
        "RATE_LIMIT_ENABLED": "false",
        "DEFAULT_MODEL": "m",
        "DATA_DIR": str(tmp_path / "data"),
    }
    log = tmp_path / "log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "PYTHONWARN"))}
    process = start("apps.api.src.main", [], tmp_path, kept | given, log)
    try:
        made = Service(process, f"http://127.0.0.1:{port}", file, log)
        assert until(lambda: answers(made.url)), log.read_text()
        yield made
    finally:
        process.terminate()
        process.wait(90)


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=90).status_code == 200
    except httpx2.TransportError:
        return False


def to(mock: MockUpstream, **models: str) -> dict[str, Any]:
    targets = {"m": HEALTHY, "slow": "slow-200", "late": "slow-5000", **models}
    return {
        "providers": {"p": provider(mock.base_url) | {"timeouts": PATIENT}},
        "models": {key: name(target, "p") for key, target in targets.items()},
    }


def test_a_new_file_is_in_force_at_once(service: Service, mock: MockUpstream, other: MockUpstream) -> None:
    assert service.ask("new").status_code == 404
    service.write(to(other, new=HEALTHY))
    assert "1 providers, 4 model names" in service.hang_up("is in force")
    assert service.ask("new").status_code == 200
    assert other.stats()["requests"] == 1


def test_a_wrong_file_changes_nothing_and_every_fault_is_in_the_log(service: Service, other: MockUpstream) -> None:
    content = to(other)
    content["models"]["m"]["strategy"] = "sk-secret"
    content["models"]["m"]["fallbacks"] = ["gone"]
    service.write(content)
    log = service.hang_up("not reloaded")
    assert "models.m.strategy" in log
    assert "models.m.fallbacks.0: no model is named gone" in log
    assert "sk-secret" not in log
    assert service.ask("m").status_code == 200
    assert other.stats()["requests"] == 0
    service.write("providers: [")
    assert "not YAML" in service.hang_up("not reloaded")
    service.file.unlink()
    assert "No such file" in service.hang_up("not reloaded")
    assert service.ask("m").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_calls_under_way_end_on_the_old_providers(
    stream: bool, service: Service, mock: MockUpstream, other: MockUpstream
) -> None:
    mock.reset()
    running: list[httpx2.Response] = []
    threads = [
        threading.Thread(target=lambda: running.append(service.ask("slow" if stream else "late", stream)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    assert until(lambda: mock.stats()["requests"] == 5)
    service.write(to(other))
    service.hang_up("is in force")
    assert service.ask("m").status_code == 200
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in running] == [200] * 5
    assert all(b"the quick brown fox jumps over" in answer.content or stream for answer in running)
    assert all(b"[DONE]" in answer.content for answer in running) or not stream
    assert (mock.stats()["requests"], other.stats()["requests"]) == (5, 1)
    assert until(lambda: mock.stats()["connections"] == 0)  # and then they are closed


@pytest.mark.long
def test_reloading_again_and_again_leaks_nothing(service: Service, mock: MockUpstream) -> None:
    handles = Path(f"/proc/{service.process.pid}/fd")
    for _ in range(3):
        service.ask("m")
        service.hang_up("is in force")
    before = len(list(handles.iterdir()))
    for _ in range(30):
        service.ask("m")
        service.hang_up("is in force")
    assert until(lambda: len(list(handles.iterdir())) <= before + 1)


def test_a_process_does_not_start_on_a_wrong_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("providers: {a: {kind: nonsense}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "apps.api.src.main"],
        env={**os.environ, "GATEWAY_CONFIG": str(file), "DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert b"providers.a.kind" in done.stderr
    assert b"Traceback" not in done.stderr


async def test_a_call_that_waits_for_another_attempt_survives_a_reload(mock: MockUpstream, tmp_path: Path) -> None:
    from apps.core.callers import ANONYMOUS
    from apps.core.calls import CallRecord
    from apps.gateway.protocol import WireCall

    mock.reset()
    file = routing_file(tmp_path, to(mock, flaky="flaky-1"))
    local = ScriptedModel(saying("x"))
    gateway = build_gateway(settings(gateway_config=file, retry_backoff=0.3), local)
    body = {"model": "flaky", **ASK}
    record = CallRecord(ANONYMOUS, "/v1/chat/completions", "flaky")
    call = asyncio.create_task(gateway.open(WireCall("/chat/completions", b"{}", body, False), record))
    await wait_for(lambda: mock.stats()["requests"] == 1)
    gateway.reload()
    assert b"the quick" in (await call).value.body
    await gateway.aclose()


async def test_a_reload_that_fails_leaves_the_router_as_it_was(mock: MockUpstream, tmp_path: Path) -> None:
    file = routing_file(tmp_path, to(mock))
    gateway = build_gateway(settings(gateway_config=file), ScriptedModel(saying("x")))
    before = gateway.router
    file.write_text("{}")
    with pytest.raises(GatewayConfigError):
        gateway.reload()
    assert gateway.router is before
    await gateway.aclose()


async def wait_for(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(90):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
