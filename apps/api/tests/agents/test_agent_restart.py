"""A paused run survives the death of its process: approved after a restart, it goes on where it was."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from apps.tests.support.agent_serving import read_run
from apps.tests.support.ports import free_port
from apps.tests.support.processes import environment, start
from apps.tests.support.reading import envelope
from apps.tests.support.waiting import until


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=90).status_code == 200
    except httpx2.TransportError:
        return False


@contextmanager
def program(folder: Path) -> Iterator[str]:
    """The URL of the running program; it is killed at the end, without a chance to put anything down."""
    port = free_port()
    process = start("apps.tests.support.agent_program", [str(port)], folder, environment(port, {}), folder / "log")
    url = f"http://127.0.0.1:{port}"
    try:
        assert until(lambda: process.poll() is not None or answers(url))
        assert process.poll() is None
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
def test_a_paused_run_survives_a_restart(tmp_path: Path, http: httpx2.Client) -> None:
    with program(tmp_path) as url:
        stream = read_run(http.post(f"{url}/agents/payer/run?stream=true", json={"prompt": "pay 5"}).content)
        assert stream.kinds == ["tool_call", "tool_call", "tool_result", "approval_required", "done"]
        run_id = json.loads(stream.events[-1][1])["run"]
    assert not (tmp_path / "payments.txt").exists()
    with program(tmp_path) as url:
        path = f"{url}/agents/runs/{run_id}"
        kept = http.get(path).json()
        assert (kept["status"], [call["tool"] for call in kept["pending"]]) == ("paused", ["pay"])
        rest = read_run(http.post(f"{path}/approve?stream=true").content)
        assert rest.kinds == ["tool_result", "message", "message", "done"]
        assert json.loads(rest.events[0][1])["result"] == "paid 5"
        done = http.get(path).json()
        assert envelope(http.post(f"{path}/approve"))["code"] == "CONFLICT"
    assert (tmp_path / "payments.txt").read_text() == "5\n"
    assert (done["status"], done["answer"], done["pending"]) == ("done", "It is paid.", [])
    assert [step["kind"] for step in done["steps"]] == ["model", "tool", "decision", "tool", "model"]


@pytest.mark.long
def test_decisions_one_by_one_survive_a_restart_after_each(tmp_path: Path, http: httpx2.Client) -> None:
    with program(tmp_path) as url:
        paused = http.post(f"{url}/agents/buyer/run", json={"prompt": "buy"}).json()
        path = f"/agents/runs/{paused['run']}"
        first, second, third = (call["id"] for call in paused["pending"])
        decide(http, url + path, first, approved=True)
    with program(tmp_path) as url:
        kept = http.get(url + path).json()
        assert (kept["status"], [call["id"] for call in kept["pending"]]) == ("paused", [second, third])
        assert envelope(decide(http, url + path, first, approved=False))["code"] == "CONFLICT"
        decide(http, url + path, second, approved=False, reason="too much")
    assert not (tmp_path / "payments.txt").exists()
    with program(tmp_path) as url:
        kept = http.get(url + path).json()
        assert [(call["id"], call["approved"], call["reason"]) for call in kept["decided"]] == [
            (first, True, ""),
            (second, False, "too much"),
        ]
        done = decide(http, url + path, third, approved=True).json()
    assert sorted((tmp_path / "payments.txt").read_text().split()) == ["1", "3"]
    assert (done["status"], done["answer"], done["pending"], done["decided"]) == ("done", "It is paid.", [], [])
    results = {step["id"]: step["result"] for step in done["steps"] if step["kind"] == "tool"}
    assert results == {first: "paid 1", second: "This call was denied: too much", third: "paid 3"}


def decide(http: httpx2.Client, run: str, call: str, **verdict: object) -> httpx2.Response:
    return http.post(f"{run}/decisions", json={"decisions": [{"id": call, **verdict}]})
