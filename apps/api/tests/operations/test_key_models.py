"""A key that is for some models only, on routes where it is not the caller who names the model."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.agent_serving import agent, serving_agents
from apps.tests.support.keys import bearer, make_keys
from apps.tests.support.mcp_clients import connected, text_of
from apps.tests.support.reading import envelope
from apps.tests.support.serving import serving_models, settings

DEFAULT = "No model is named, so gpt-4o-mini would answer, and this key is not for it: name another one in `model`"
LOCAL = "answers here, and this key is not for it: ask /generate or /v1 for others"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """The service's address, a key for another cloud model, and one for the local model."""
    folder = tmp_path_factory.mktemp("keys")
    cloud, local = make_keys(settings(auth="on", data_dir=folder), {"models": ["gpt-4o"]}, {"models": ["local"]})
    with serving_models(auth="on", data_dir=folder) as url:
        yield url, cloud, local


def asked(http: httpx2.Client, url: str, key: str, **fields: Any) -> dict[str, Any]:
    return envelope(http.post(url, json={"prompt": "hi", **fields}, headers=bearer(key)))


def test_a_call_without_a_model_is_told_which_would_have_answered(
    served: tuple[str, str, str], http: httpx2.Client
) -> None:
    url, cloud, local = served
    for key in (cloud, local):
        error = asked(http, f"{url}/generate", key)
        assert (error["code"], error["field"], error["message"]) == ("FORBIDDEN", "model", DEFAULT)
        assert error["details"] == {"model": "gpt-4o-mini"}


def test_naming_one_of_its_models_is_what_helps(served: tuple[str, str, str], http: httpx2.Client) -> None:
    url, cloud, _ = served
    answer = http.post(f"{url}/generate", json={"prompt": "hi", "model": "gpt-4o"}, headers=bearer(cloud))
    assert answer.status_code == 200
    named = asked(http, f"{url}/generate", cloud, model="gpt-4o-mini")
    assert (named["code"], named["message"]) == ("FORBIDDEN", "This key may not use that model")


@pytest.mark.parametrize("fields", [{}, {"model": "gpt-4o"}])
def test_on_the_local_route_only_the_local_model_answers(
    fields: dict[str, str], served: tuple[str, str, str], http: httpx2.Client
) -> None:
    url, cloud, local = served
    error = asked(http, f"{url}/local/generate", cloud, **fields)
    assert (error["code"], error["field"]) == ("FORBIDDEN", "model")
    assert error["message"].startswith("Only the local model, ")
    assert error["message"].endswith(LOCAL)
    assert http.post(f"{url}/local/generate", json={"prompt": "hi"}, headers=bearer(local)).status_code == 200


async def test_agents_collections_and_tools_say_it_too(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path}
    async with httpx2.AsyncClient(timeout=90) as http:
        (key,) = await asyncio.to_thread(make_keys, settings(**changes), {"models": ["gpt-4o"]})
        with serving_agents({"calc": agent()}, ScriptedModel(saying("x")), **changes) as url:
            run = await http.post(f"{url}/agents/calc/run", json={"prompt": "hi"}, headers=bearer(key))
            found = await http.post(f"{url}/rag/collections/notes/query", json={"query": "x"}, headers=bearer(key))
            async with connected(url, key) as client:
                cloud = await client.call_tool("generate", {"prompt": "hi"})
                local = await client.call_tool("local_generate", {"prompt": "hi"})
    assert envelope(run)["message"] == "This key is not for agent/calc: its models do not include it"
    assert envelope(found)["message"] == "This key is not for rag/notes: its models do not include it"
    assert text_of(cloud) == f"FORBIDDEN: {DEFAULT}"
    assert text_of(local).endswith(LOCAL)
