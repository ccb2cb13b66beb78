"""Agents and MCP clients search in documents: their own tenant's, within their keys, with a real library."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.agents.config import AgentsConfig
from apps.api.src.wiring.stores import Documents, build_documents
from apps.gateway.gateway import Gateway
from apps.models.scripted import ScriptedModel, calling, in_turns, saying
from apps.rag.library import Library
from apps.tests.support.agent_serving import agent, build
from apps.tests.support.keys import make_keys
from apps.tests.support.mcp_clients import connected, text_of
from apps.tests.support.rag_serving import LEAVE, TRAVEL, WordEmbedder, ingested
from apps.tests.support.serving import serving, settings

SEARCHING = in_turns(calling(("search", {"query": "days of leave"})), saying("30 days."))
ASK = {"prompt": "How much leave?"}


@pytest.mark.local
@pytest.mark.long
async def test_each_searches_in_what_its_key_reaches(tmp_path: Path) -> None:
    terms: list[dict[str, Any]] = [
        {"tenant": "red"},
        {"tenant": "blue"},
        {"tenant": "red", "models": ["agent/*", "rag/travel"]},
    ]
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path}
    keys = await asyncio.to_thread(make_keys, settings(**changes), *terms)
    red, blue, narrow = ({"Authorization": f"Bearer {key}"} for key in keys)
    model, embedder = ScriptedModel(SEARCHING), WordEmbedder()
    library = Library(tmp_path / "rag", embedder)

    def documents(gateway: Gateway) -> Documents:
        return build_documents(settings(**changes), gateway, model, embedder, library)

    app = build(AgentsConfig(agents={"a": agent("search")}), model, documents=documents, **changes)
    with serving(app) as url:
        await asyncio.to_thread(_fill, url, red)
        async with httpx2.AsyncClient(timeout=90) as http:
            mine = (await http.post(f"{url}/agents/a/run", json=ASK, headers=red)).json()
            theirs = (await http.post(f"{url}/agents/a/run", json=ASK, headers=blue)).json()
            less = (await http.post(f"{url}/agents/a/run", json=ASK, headers=narrow)).json()
        async with connected(url, keys[0]) as client:
            found = await client.call_tool("rag_search", {"collection": "handbook", "query": "days of leave"})
        async with connected(url, keys[1]) as client:
            none = await client.call_tool("rag_search", {"collection": "handbook", "query": "days of leave"})
    assert "30 days of leave" in mine["steps"][1]["result"]
    assert theirs["steps"][1]["result"] == "[]"
    assert "30 days of leave" not in less["steps"][1]["result"]
    assert "Trains are booked" in less["steps"][1]["result"]
    assert "30 days of leave" in text_of(found)
    assert found.structured_content["passages"][0]["document"] == "leave.md"
    assert none.is_error
    assert "NOT_FOUND" in text_of(none)


def _fill(url: str, headers: dict[str, str]) -> None:
    with httpx2.Client(timeout=90, headers=headers) as http:
        assert ingested(http, f"{url}/rag/collections/handbook", LEAVE)["status"] == "done"
        assert ingested(http, f"{url}/rag/collections/travel", TRAVEL)["status"] == "done"
