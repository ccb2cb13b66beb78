"""A key's budget holds for agents too, by whichever way they are asked: a run costs what its models cost."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.agents.progress import TextDelta
from apps.agents.tests.running import agents_of, declared
from apps.agents.tools import function_tool
from apps.api.src.agents.answers import metered_events, new_record
from apps.core.callers import Budget, Caller
from apps.core.calls import CUT_OFF, Usage
from apps.core.deltas import Delta
from apps.core.messages import ChatRequest, user_message
from apps.models.metering import Meter
from apps.models.scripted import ScriptedModel, Step, calling, in_turns, saying
from apps.tests.support.agent_serving import agent, limits, serving_agents
from apps.tests.support.caching import Books
from apps.tests.support.keys import make_keys
from apps.tests.support.mcp_clients import connected, text_of
from apps.tests.support.serving import settings
from apps.tests.support.waiting import HANG_SECONDS

USED = Usage(1000, 500)
CALL = ("calculator", {"expression": "1 + 1"})


def paid(request: ChatRequest) -> list[Delta]:
    return [Delta("2", model="scripted"), Delta(finish_reason="stop", model="scripted", usage=USED)]


# the first is free, so that a run ends whatever its key's budget is
COMPUTING = in_turns(calling(CALL), paid)
# what costs is the first answer, so that a small budget is spent in the middle
SPENDING = in_turns(calling(CALL, text="Let me see. ", usage=USED), saying("2"))
ASK = {"prompt": "What is 1 + 1?"}
FILE = """
providers: {local: {kind: local}, agents: {kind: agent}, elsewhere: {base_url: "http://127.0.0.1:9"}}
models:
  either: {targets: [{provider: agents, model: agent/calc}, {provider: local, model: x}]}
  priced: {targets: [{provider: local, model: x, price: {input: 100, output: 200}}]}
  unpriced: {targets: [{provider: elsewhere, model: y}]}
"""


async def test_a_run_is_paid_for_and_an_empty_budget_opens_no_way(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path, "gateway_config": file, "default_model": "priced"}
    terms: list[dict[str, Any]] = [{"budget_usd": "0.05/day"}, {"budget_usd": "0.05/day"}]
    poor, fresh = await asyncio.to_thread(make_keys, settings(**changes), *terms)
    calc = agent("calculator").model_copy(update={"model": "priced"})
    other = agent("calculator").model_copy(update={"model": "unpriced"})
    with serving_agents({"calc": calc, "other": other}, ScriptedModel(COMPUTING), **changes) as url:
        async with httpx2.AsyncClient(timeout=90) as http:

            async def asked(key: str, path: str, body: Any = ASK) -> httpx2.Response:
                return await http.post(url + path, json=body, headers={"Authorization": f"Bearer {key}"})

            whole = await asked(poor, "/agents/calc/run")
            # something was left, so the first run was let in: 1,000 tokens at 100 and 500 at 200 dollars a million
            assert whole.json()["usage"]["cost"] == pytest.approx(0.2)
            chat = {"model": "agent/calc", "messages": [{"role": "user", "content": "1 + 1?"}]}
            for path, body in (
                ("/agents/calc/run", ASK),
                ("/v1/chat/completions", chat),
                ("/generate", {**ASK, "model": "agent/calc"}),
            ):
                refused = await asked(poor, path, body)
                error = refused.json()["error"]
                # on /v1 the envelope's code stands beside OpenAI's
                assert (refused.status_code, error.get("error_code", error["code"])) == (429, "RATE_LIMIT_EXCEEDED"), (
                    path
                )
            unknown = await asked(fresh, "/agents/other/run")
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (403, "FORBIDDEN")
        async with connected(url, poor) as client:
            told = await client.call_tool("agent_calc", {"prompt": "1 + 1?"})
    assert told.is_error
    assert "RATE_LIMIT_EXCEEDED" in text_of(told)


def way(name: str) -> tuple[str, dict[str, Any]]:
    """A path and a body that ask the agent, or a name of the routing file with it behind."""
    if name.startswith("/v1"):
        streamed, model = name.endswith("streamed"), "either" if "either" in name else "agent/calc"
        return "/v1/chat/completions", {"model": model, "stream": streamed, "messages": [{"role": "user", **SAID}]}
    return name, {**ASK, "model": "agent/calc"}


SAID = {"content": "1 + 1?"}
WAYS = ["/agents/calc/run", "/agents/calc/run?stream=true", "/v1", "/v1 streamed", "/v1 either", "/generate", "/mcp"]


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.long
async def test_a_budget_that_is_spent_in_the_middle_ends_the_run_before_its_next_step(
    name: str, tmp_path: Path
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path, "gateway_config": file, "default_model": "priced"}
    (key,) = await asyncio.to_thread(make_keys, settings(**changes), {"budget_usd": "0.15/day"})
    calc = agent("calculator").model_copy(update={"model": "priced"})
    model = ScriptedModel(SPENDING)
    headers = {"Authorization": f"Bearer {key}"}
    with serving_agents({"calc": calc}, model, **changes) as url:
        async with httpx2.AsyncClient(timeout=90, headers=headers) as http:
            if name == "/mcp":
                async with connected(url, key) as client:
                    told = await client.call_tool("agent_calc", {"prompt": "1 + 1?"})
                assert told.is_error
                said = text_of(told)
            else:
                path, body = way(name)
                answer = await http.post(url + path, json=body)
                # a stream that has begun ends in an error, everything else has the status
                assert answer.status_code == (200 if "stream" in name else 429)
                said = answer.text
                if answer.status_code == 429:
                    error = answer.json()["error"]
                    assert (error["details"]["source"], error["details"]["spent"]) == ("budget", 0.2)
                    assert int(answer.headers["retry-after"]) > 0
            assert "RATE_LIMIT_EXCEEDED" in said
            assert "budget of this key is used up" in said
            # the second answer was never asked for, by no target
            assert len(model.requests) == 1
            used = await spent(http, url)
    assert used == pytest.approx(0.2)


async def spent(http: httpx2.AsyncClient, url: str) -> float:
    """What the ledger says, once the row is there."""
    async with asyncio.timeout(90):
        while True:
            total = (await http.get(f"{url}/v1/usage")).json()["total"]
            if total["calls"]:
                return float(total["cost_usd"])
            await asyncio.sleep(0.05)


async def test_spent_budgets_leave_the_agent_well_for_others(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path, "gateway_config": file, "default_model": "priced"}
    terms: list[dict[str, Any]] = [{"budget_usd": "0.15/day"}] * 12 + [{}]
    *poor, rich = await asyncio.to_thread(make_keys, settings(**changes), *terms)
    calc = agent("calculator").model_copy(update={"model": "priced"})
    with serving_agents({"calc": calc}, ScriptedModel(SPENDING), **changes) as url:
        async with httpx2.AsyncClient(timeout=90) as http:

            async def asked(key: str, name: str) -> httpx2.Response:
                path, body = way(name)
                return await http.post(url + path, json=body, headers={"Authorization": f"Bearer {key}"})

            for place, key in enumerate(poor):
                assert "is used up" in (await asked(key, "/v1 streamed" if place % 2 else "/v1")).text
            answer = await asked(rich, "/v1")
            (routed,) = (
                await http.get(f"{url}/v1/route?model=agent/calc", headers={"Authorization": f"Bearer {rich}"})
            ).json()["order"]
    assert (answer.status_code, routed["breaker"]) == (200, "closed")


async def test_a_run_ends_where_another_call_of_its_key_spends_the_budget_meanwhile(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path, "gateway_config": file, "default_model": "priced"}
    (key,) = await asyncio.to_thread(make_keys, settings(**changes), {"budget_usd": "0.3/day"})
    begun, go = threading.Event(), threading.Event()

    async def wait() -> str:
        """Wait."""
        begun.set()
        assert await asyncio.to_thread(go.wait, 20)
        return "waited"

    def script(request: ChatRequest) -> Sequence[Step]:
        return in_turns(calling(("wait", {}), usage=USED), saying("2"))(request) if request.tools else paid(request)

    waiter = agent("wait", limits=limits(answer_tokens=10)).model_copy(update={"model": "priced"})
    model = ScriptedModel(script)
    with serving_agents({"waiter": waiter}, model, function_tool(wait), **changes) as url:
        async with httpx2.AsyncClient(timeout=90, headers={"Authorization": f"Bearer {key}"}) as http:
            run = asyncio.create_task(http.post(f"{url}/agents/waiter/run", json=ASK))
            assert await asyncio.to_thread(begun.wait, 20)
            other = await http.post(f"{url}/generate", json={**ASK, "max_tokens": 10})
            assert other.status_code == 200
            assert await spent(http, url) == pytest.approx(0.2)
            go.set()
            stopped = await run
            kept = (await http.get(f"{url}/agents/runs/{stopped.headers['x-run-id']}")).json()
    assert (stopped.status_code, stopped.json()["error"]["code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert (kept["status"], kept["outcome"], kept["usage"]["cost"]) == ("failed", "RATE_LIMIT_EXCEEDED", 0.2)
    assert [step["kind"] for step in kept["steps"]] == ["model", "tool"]
    assert len(model.requests) == 2


async def test_an_approval_that_a_spent_budget_refuses_decides_nothing(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path, "gateway_config": file, "default_model": "priced"}
    terms: list[dict[str, Any]] = [{"budget_usd": "0.15/day", "tenant": "t"}, {"tenant": "t"}]
    poor, rich = await asyncio.to_thread(make_keys, settings(**changes), *terms)
    calc = agent("calculator", approval=["calculator"]).model_copy(update={"model": "priced"})
    with serving_agents({"calc": calc}, ScriptedModel(SPENDING), **changes) as url:
        async with httpx2.AsyncClient(timeout=90) as http:

            async def asked(key: str, path: str, body: Any = None) -> httpx2.Response:
                return await http.post(url + path, json=body, headers={"Authorization": f"Bearer {key}"})

            run = (await asked(poor, "/agents/calc/run", ASK)).json()
            assert run["status"] == "paused"
            path = f"/agents/runs/{run['run']}"
            each = {"decisions": [{"id": run["pending"][0]["id"], "approved": True}]}
            for refused in (await asked(poor, f"{path}/approve"), await asked(poor, f"{path}/decisions", each)):
                assert (refused.status_code, refused.json()["error"]["details"]["source"]) == (429, "budget")
            kept = (await http.get(url + path, headers={"Authorization": f"Bearer {poor}"})).json()
            assert (kept["status"], kept["pending"], kept["decided"]) == ("paused", run["pending"], [])
            done = (await asked(rich, f"{path}/decisions", each)).json()
    assert (done["status"], done["answer"]) == ("done", "2")


@pytest.mark.parametrize("outcome", ["CANCELLED", "SHUT_DOWN", "CLIENT_GONE"])
async def test_what_cuts_a_run_off_is_the_outcome_of_the_call_that_pays_for_it(outcome: str) -> None:
    """Whoever cancels what he has read pays what was reserved, as one who leaves does."""
    begun, book = asyncio.Event(), Books()
    model = ScriptedModel(lambda request: [Delta("word", model="m"), 600.0])
    agents = agents_of(model, declared())
    spender = Caller("tenant", "key", budget=Budget(1, "day"))
    session = agents.begin("a", spender, user_message("hi"))
    record = new_record(agents, session, spender, "/agents/{name}/run", 2, streamed=True)
    record.estimated_cost = 0.5

    async def read() -> None:
        async for event in metered_events(session, Meter([book]), record):
            if isinstance(event, TextDelta):
                begun.set()

    reading = asyncio.create_task(read())
    async with asyncio.timeout(HANG_SECONDS):
        await begun.wait()
        if outcome == "CANCELLED":
            await agents.cancel(session.run.id, spender)
        elif outcome == "SHUT_DOWN":
            await agents.aclose()
        else:
            reading.cancel()
        await asyncio.wait([reading])
    assert [(call.outcome, call.estimated_cost) for call in book.closed] == [(outcome, 0.5)]
    assert outcome in CUT_OFF
