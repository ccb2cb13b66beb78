"""A key's budget holds for agents too, by whichever way they are asked: a run costs what its models cost."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.api.tests.agent_serving import agent, serving_agents
from apps.api.tests.keys import make_keys
from apps.api.tests.mcp_clients import connected, text_of
from apps.api.tests.serving import settings
from apps.core.deltas import Usage
from apps.models.scripted import ScriptedModel, calling, in_turns, saying

USED = Usage(1000, 500)
COMPUTING = in_turns(calling(("calculator", {"expression": "1 + 1"}), usage=USED), saying("2"))
ASK = {"prompt": "What is 1 + 1?"}
FILE = """
providers: {local: {kind: local}, agents: {kind: agent}, elsewhere: {base_url: "http://127.0.0.1:9"}}
models:
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
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:

            async def asked(key: str, path: str, body: Any = ASK) -> httpx2.Response:
                return await http.post(url + path, json=body, headers={"Authorization": f"Bearer {key}"})

            paid = await asked(poor, "/agents/calc/run")
            # something was left, so the first run was let in: 1,000 tokens at 100 and 500 at 200 dollars a million
            assert paid.json()["usage"]["cost"] == pytest.approx(0.2)
            chat = {"model": "agent/calc", "messages": [{"role": "user", "content": "1 + 1?"}]}
            for path, body in (
                ("/agents/calc/run", ASK),
                ("/v1/chat/completions", chat),
                ("/generate", {**ASK, "model": "agent/calc"}),
            ):
                refused = await asked(poor, path, body)
                assert (refused.status_code, refused.json()["error"]["code"]) == (429, "RATE_LIMIT_EXCEEDED"), path
            unknown = await asked(fresh, "/agents/other/run")
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (403, "FORBIDDEN")
        async with connected(url, poor) as client:
            told = await client.call_tool("agent_calc", {"prompt": "1 + 1?"})
    assert told.is_error
    assert "RATE_LIMIT_EXCEEDED" in text_of(told)
