"""Agents and keys: a run is its tenant's own, an agent is for the keys that may use it."""

from pathlib import Path
from typing import Any

import httpx2

from apps.models.scripted import ScriptedModel, calling, in_turns, saying
from apps.tests.support.agent_serving import agent, serving_agents
from apps.tests.support.keys import make_keys
from apps.tests.support.reading import envelope
from apps.tests.support.serving import settings

ASK = {"prompt": "hi"}
SCRIPT = in_turns(calling(("clock", {})), saying("done"))


def test_runs_and_agents_belong_to_those_whose_keys_reach_them(tmp_path: Path, http: httpx2.Client) -> None:
    terms: list[dict[str, Any]] = [
        {"tenant": "red"},
        {"tenant": "blue"},
        {"tenant": "red", "models": ["agent/other", "scripted"]},
    ]
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path}
    red, blue, narrow = ({"Authorization": f"Bearer {key}"} for key in make_keys(settings(**changes), *terms))
    agents = {"asks": agent("clock", approval=["clock"]), "other": agent("clock")}
    with serving_agents(agents, ScriptedModel(SCRIPT), **changes) as url:
        run = http.post(f"{url}/agents/asks/run", json=ASK, headers=red).json()
        path = f"{url}/agents/runs/{run['run']}"
        assert http.get(path, headers=red).json()["status"] == "paused"
        for answer in (
            http.get(path, headers=blue),
            http.delete(path, headers=blue),
            http.post(f"{path}/approve", headers=blue),
            http.post(f"{path}/deny", headers=blue),
        ):
            assert envelope(answer)["code"] == "NOT_FOUND"
        for answer in (
            http.post(f"{url}/agents/asks/run", json=ASK, headers=narrow),
            http.post(f"{url}/v1/chat/completions", json={"model": "agent/asks", "messages": []}, headers=narrow),
            http.post(f"{path}/approve", headers=narrow),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")
        listed = http.get(f"{url}/agents", headers=narrow).json()["agents"]
        assert [one["name"] for one in listed] == ["other"]
        assert http.post(f"{path}/approve", headers=red).json()["status"] == "done"
        assert http.get(f"{url}/agents").status_code == 401
