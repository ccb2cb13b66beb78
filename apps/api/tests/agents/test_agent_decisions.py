"""POST /agents/runs/{id}/decisions over a real socket: some calls now, others later, the run goes on with the last."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.agents.tools import AgentTool, function_tool
from apps.models.scripted import ScriptedModel, calling, in_turns, saying
from apps.tests.support.agent_serving import Book, agent, read_run, serving_agents
from apps.tests.support.keys import make_keys
from apps.tests.support.reading import envelope
from apps.tests.support.serving import settings

ASK = {"prompt": "pay"}
SCRIPT = in_turns(calling(("pay", {"amount": 1}), ("pay", {"amount": 2})), saying("done"))
AGENTS = {"a": agent("pay", approval=["pay"])}
FIRST, SECOND = "call_0_0", "call_0_1"


def paying(paid: list[int]) -> AgentTool:
    def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return f"paid {amount}"

    return function_tool(pay)


def decisions(*made: tuple[str, bool], **more: Any) -> dict[str, Any]:
    return {"decisions": [{"id": id, "approved": approved, **more} for id, approved in made]}


def test_some_now_others_later_as_json_and_as_streams(http: httpx2.Client) -> None:
    paid: list[int] = []
    book = Book()
    with serving_agents(AGENTS, ScriptedModel(SCRIPT), paying(paid), books=[book]) as url:
        for stream in ("", "?stream=true"):
            run = http.post(f"{url}/agents/a/run", json=ASK).json()
            path = f"{url}/agents/runs/{run['run']}"
            part = http.post(f"{path}/decisions{stream}", json=decisions((SECOND, False), reason="too much"))
            assert (part.status_code, part.headers["x-run-id"]) == (200, run["run"])
            kept = http.get(path).json()
            left = [{"id": FIRST, "tool": "pay", "arguments": {"amount": 1}}]
            assert (kept["status"], kept["pending"]) == ("paused", left)
            assert [(call["id"], call["approved"], call["reason"]) for call in kept["decided"]] == [
                (SECOND, False, "too much")
            ]
            if stream:
                told = read_run(part.content)
                assert told.kinds == ["approval_required", "done"]
                assert json.loads(told.events[0][1])["calls"] == left
                assert json.loads(told.events[1][1])["finish_reason"] == "approval_required"
            else:
                assert part.json() == kept
            rest = http.post(f"{path}/decisions{stream}", json=decisions((FIRST, True)))
            if stream:
                assert read_run(rest.content).kinds[-2:] == ["message", "done"]
            done = http.get(path).json()
            assert (done["status"], done["answer"], done["decided"]) == ("done", "done", [])
    assert paid == [1, 1]
    # what only waits on asks no model: it is no call on record
    assert Counter(r.route for r in book.closed) == {"/agents/{name}/run": 2, "/agents/runs/{id}/decisions": 2}


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "MISSING_REQUIRED_FIELD", "decisions"),
        ({"decisions": []}, "INVALID_VALUE", "decisions"),
        ({"decisions": [{"id": FIRST}]}, "MISSING_REQUIRED_FIELD", "decisions.0.approved"),
        ({"decisions": [{"id": FIRST, "approved": "yes"}]}, "INVALID_TYPE", "decisions.0.approved"),
        (decisions((FIRST, False), reason="x" * 501), "INVALID_VALUE", "decisions.0.reason"),
        (decisions((FIRST, True), (FIRST, False)), "INVALID_VALUE", "decisions.1.id"),
        (decisions((FIRST, True), ("nobody", True)), "NOT_FOUND", "decisions.1.id"),
    ],
)
@pytest.mark.long
def test_wrong_decisions_are_told_as_everywhere_and_decide_nothing(
    body: Any, code: str, field: str, http: httpx2.Client
) -> None:
    with serving_agents(AGENTS, ScriptedModel(SCRIPT), paying([])) as url:
        run = http.post(f"{url}/agents/a/run", json=ASK).json()
        error = envelope(http.post(f"{url}/agents/runs/{run['run']}/decisions", json=body))
        assert (error["code"], error["field"]) == (code, field)
        assert http.get(f"{url}/agents/runs/{run['run']}").json() == run


def test_decided_calls_ended_runs_and_those_of_others_are_refused(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path}
    terms: list[dict[str, Any]] = [{"tenant": "one"}, {"tenant": "one", "models": ["agent/b"]}, {"tenant": "two"}]
    own, other_agent, stranger = make_keys(settings(**changes), *terms)
    paid: list[int] = []
    with (
        serving_agents(AGENTS, ScriptedModel(SCRIPT), paying(paid), **changes) as url,
        httpx2.Client(timeout=90) as http,
    ):

        def ask(key: str, path: str, body: Any) -> httpx2.Response:
            return http.post(url + path, json=body, headers={"Authorization": f"Bearer {key}"})

        run = ask(own, "/agents/a/run", ASK).json()["run"]
        path = f"/agents/runs/{run}/decisions"
        assert ask(own, path, decisions((FIRST, True))).status_code == 200
        codes = [
            envelope(ask(own, path, decisions((FIRST, False))))["code"],
            envelope(ask(stranger, path, decisions((SECOND, True))))["code"],
            envelope(ask(other_agent, path, decisions((SECOND, True))))["code"],
            envelope(ask(own, "/agents/runs/none/decisions", decisions((SECOND, True))))["code"],
        ]
        assert codes == ["CONFLICT", "NOT_FOUND", "FORBIDDEN", "NOT_FOUND"]
        assert ask(own, f"/agents/runs/{run}/deny", None).json()["status"] == "done"
        assert envelope(ask(own, path, decisions((SECOND, True))))["code"] == "CONFLICT"
    assert paid == [1]


async def test_of_two_who_decide_at_once_over_http_exactly_one_wins_a_call() -> None:
    paid: list[int] = []
    with serving_agents(AGENTS, ScriptedModel(SCRIPT), paying(paid)) as url:
        async with httpx2.AsyncClient(timeout=90) as http:
            run = (await http.post(f"{url}/agents/a/run", json=ASK)).json()["run"]

            async def decide(id: str, approved: bool) -> int:
                body = decisions((id, approved))
                return (await http.post(f"{url}/agents/runs/{run}/decisions", json=body)).status_code

            rivals = [(id, approved) for id in (FIRST, SECOND) for approved in (True, False, True)]
            codes = await asyncio.gather(*(decide(*rival) for rival in rivals))
            done = (await http.get(f"{url}/agents/runs/{run}")).json()
    assert (Counter(codes[:3]), Counter(codes[3:])) == (Counter([200, 409, 409]),) * 2
    approved = [place + 1 for place, at in enumerate((codes.index(200), codes.index(200, 3))) if rivals[at][1]]
    assert (done["status"], sorted(paid)) == ("done", approved)


def test_the_page_describes_decisions_with_their_errors(http: httpx2.Client) -> None:
    with serving_agents(AGENTS, ScriptedModel(SCRIPT), paying([])) as url:
        page = http.get(f"{url}/openapi.json").json()
    decide = page["paths"]["/agents/runs/{id}/decisions"]["post"]
    assert {"200", "401", "403", "404", "409", "422", "429", "502", "503", "504"} <= set(decide["responses"])
    schema = decide["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert page["components"]["schemas"][schema]["examples"][0]["decisions"][1]["reason"] == "too much"
