"""SIGHUP takes a new file of agents: a real process follows it, or keeps the old one where the new one is wrong."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from apps.tests.support.ports import free_port
from apps.tests.support.processes import environment, start
from apps.tests.support.reloading import ReloadingService
from apps.tests.support.waiting import until

PROGRAM = Path(__file__).parents[3] / "tests" / "support" / "mcp_stdio_server.py"
ONE: dict[str, Any] = {"agents": {"one": {"model": "local", "tools": ["clock"]}}}
TWO: dict[str, Any] = {"agents": {"two": {"model": "local", "description": "new"}, "three": {"model": "local"}}}


class Service(ReloadingService):
    def models(self) -> set[str]:
        listed = httpx2.get(f"{self.url}/v1/models", timeout=90).json()["data"]
        return {model["id"] for model in listed if model["id"].startswith("agent/")}

    def agents(self) -> list[str]:
        return [agent["name"] for agent in httpx2.get(f"{self.url}/agents", timeout=90).json()["agents"]]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    file = tmp_path / "agents.yaml"
    file.write_text(yaml.safe_dump(ONE))
    port = free_port()
    given = {
        "AGENTS_CONFIG": str(file),
        "LOCAL_MODEL": str(tmp_path / "none"),
        "LOCAL_FALLBACK": "none",
        "RATE_LIMIT_ENABLED": "false",
        "DATA_DIR": str(tmp_path / "data"),
        "MCP_SECRET": "sk-do-not-tell-anybody",
    }
    log = tmp_path / "log"
    process = start("apps.api.src.main", [], tmp_path, environment(port, given), log)
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


@pytest.mark.long
def test_a_new_file_is_in_force_at_once_wherever_agents_are_named(service: Service) -> None:
    assert (service.models(), service.agents()) == ({"agent/one"}, ["one"])
    service.write(TWO)
    log = service.hang_up("file of agents is in force")
    assert "2 agents, 0 MCP servers" in log
    assert (service.models(), service.agents()) == ({"agent/two", "agent/three"}, ["three", "two"])
    gone = httpx2.post(f"{service.url}/agents/one/run", json={"prompt": "x"}, timeout=90)
    assert (gone.status_code, gone.json()["error"]["details"]["available"]) == (404, ["three", "two"])
    chat = {"model": "agent/one", "messages": [{"role": "user", "content": "x"}]}
    assert httpx2.post(f"{service.url}/v1/chat/completions", json=chat, timeout=90).status_code == 404
    ready = httpx2.post(f"{service.url}/agents/two/run", json={"prompt": "x"}, timeout=90)
    assert ready.json()["error"]["code"] == "MODEL_UNAVAILABLE"  # it is asked: only the local model is not there


@pytest.mark.long
def test_a_wrong_file_changes_nothing_and_every_fault_is_in_the_log(service: Service) -> None:
    service.write(
        {
            **TWO,
            "agents": {**TWO["agents"], "one": {"tools": ["nothing"], "model": "agent/x"}},
            "mcp_servers": {"m": {"command": ["x"], "url": "https://sk-secret.example.com"}},
        }
    )
    log = service.hang_up("not reloaded")
    assert "agents.one: an agent cannot be an agent's model" in log
    assert "mcp_servers.m: either command or url is required" in log
    assert "sk-secret" not in log
    for content, fault in (("agents: [", "not YAML"), ({"agents": {"one": {"tools": ["gone/tool"]}}}, "no tool")):
        service.write(content)
        assert fault in service.hang_up("not reloaded")
    service.file.unlink()
    assert "No such file" in service.hang_up("not reloaded")
    assert (service.models(), service.agents()) == ({"agent/one"}, ["one"])
    # the routing file is a file of its own: it is taken although this one is wrong
    assert "The routing file is in force" in service.log.read_text()


@pytest.mark.long
def test_reloading_again_and_again_leaks_nothing(service: Service) -> None:
    server = {"command": [sys.executable, str(PROGRAM)], "tools": ["add"], "env": ["MCP_SECRET"]}
    handles = Path(f"/proc/{service.process.pid}/fd")

    def reload_and_ask(number: int) -> None:
        agents = {"one": {"model": "local", "tools": ["s/add"], "description": str(number)}}
        # every other file has another server, so that one is connected to and closed each time
        service.write({"agents": agents, "mcp_servers": {"s": {**server, "call_seconds": 10 + number % 2}}})
        service.hang_up("file of agents is in force")
        httpx2.post(f"{service.url}/agents/one/run", json={"prompt": "x"}, timeout=90)

    for number in range(3):
        reload_and_ask(number)
    assert until(lambda: len(children(service)) == 1)
    before = len(list(handles.iterdir()))
    for number in range(3, 11):
        reload_and_ask(number)
    assert until(lambda: len(children(service)) == 1)
    assert until(lambda: len(list(handles.iterdir())) <= before + 2)
    service.write(ONE)
    service.hang_up("1 agents, 0 MCP servers")
    assert until(lambda: not children(service))
    assert "sk-do-not-tell-anybody" not in service.log.read_text()


def children(service: Service) -> list[int]:
    """The programs of MCP servers that the process has running."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_text()
        except (OSError, IndexError):
            continue
        if parent == service.process.pid and str(PROGRAM) in command:
            found.append(int(entry.name))
    return found


pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGHUP is of POSIX")
