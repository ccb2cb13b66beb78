"""`notifications/cancelled` of older clients: it stops the call that it names, of its own session, and no other."""

import asyncio
from typing import Any

import httpx2
import pytest

from apps.core.deltas import Delta
from apps.models.scripted import ScriptedModel
from apps.tests.support import waiting
from apps.tests.support.agent_serving import serving_agents
from apps.tests.support.scraping import scrape
from apps.tests.support.waiting import HANG_SECONDS

VERSION = "2025-06-18"
HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION}
HELLO: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


def calling(id: Any, **meta: Any) -> dict[str, Any]:
    params = {"name": "local_generate", "arguments": {"prompt": "hi"}, **({"_meta": meta} if meta else {})}
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}


def cancelling(id: Any) -> dict[str, Any]:
    params = {"requestId": id, "reason": "The user has lost patience"}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


async def opened(http: httpx2.AsyncClient) -> str:
    """The name of a new session."""
    answer = await http.post("/mcp", json=HELLO)
    assert answer.status_code == 200
    return answer.headers["mcp-session-id"]


async def until(model: ScriptedModel, running: int) -> None:
    for _ in range(int(HANG_SECONDS * 100)):
        if model.open == running:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{model.open} calls are running, and not {running}")


@pytest.mark.parametrize(
    "meta", [{}, pytest.param({"progressToken": 7}, marks=pytest.mark.long)], ids=["whole", "streamed"]
)
async def test_the_call_that_is_named_stops_and_no_other(meta: dict[str, Any]) -> None:
    model = ScriptedModel(lambda request: [HANG_SECONDS, Delta("late")])
    with serving_agents({}, model) as url:
        async with httpx2.AsyncClient(base_url=url, headers=HEADERS, timeout=HANG_SECONDS) as http:
            mine, other = await opened(http), await opened(http)
            assert mine != other
            calls = [
                asyncio.create_task(http.post("/mcp", json=calling(id, **meta), headers={"mcp-session-id": session}))
                for session, id in ((mine, 1), (mine, "1"), (other, 1))
            ]
            await until(model, 3)
            for session, id in ((mine, 2), ("invented", 1), (other, True)):
                taken = await http.post("/mcp", json=cancelling(id), headers={"mcp-session-id": session})
                assert (taken.status_code, model.open) == (202, 3)
            assert (await http.post("/mcp", json=cancelling(1))).status_code == 202
            assert model.open == 3
            ends: list[tuple[int, Any]] = [(2, 1), (1, "1")]
            for left, name in ends:
                await http.post("/mcp", json=cancelling(name), headers={"mcp-session-id": mine})
                await until(model, left)
            answers = [await call for call in calls[:2]]
            # a cancelled request has no answer
            assert all('"result"' not in answer.text and '"error"' not in answer.text for answer in answers)
            assert not calls[2].done()
            await http.post("/mcp", json=cancelling(1), headers={"mcp-session-id": other})
            await until(model, 0)
            await calls[2]
        assert waiting.until(lambda: scrape(url).sum("genai_calls_total", outcome="CANCELLED") == 3)


async def test_the_same_id_serves_again_once_its_call_has_ended() -> None:
    model = ScriptedModel(lambda request: [Delta("here"), Delta(finish_reason="stop")])
    with serving_agents({}, model) as url:
        async with httpx2.AsyncClient(base_url=url, headers=HEADERS, timeout=HANG_SECONDS) as http:
            session = {"mcp-session-id": await opened(http)}
            await http.post("/mcp", json=cancelling(1), headers=session)
            for _ in range(2):
                answer = await http.post("/mcp", json=calling(1), headers=session)
                assert answer.json()["result"]["content"][0]["text"] == "here"
                await http.post("/mcp", json=cancelling(1), headers=session)
