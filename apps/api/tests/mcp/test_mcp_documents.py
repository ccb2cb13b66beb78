"""Documents as resources of the MCP server, prompts, progress, and the end of a call whose client leaves."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError

from apps.agents.mcp_bridge import bridging
from apps.api.src.mcp.served import PAGE
from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.mcp_clients import connected, text_of
from apps.tests.support.rag_serving import LEAVE, ingested, serving_documents
from apps.tests.support.waiting import until


def answering(request: ChatRequest) -> Sequence[Step]:
    if "wait" in str(request.messages[-1].content):
        return [Delta("x", model="local"), 600.0, Delta(finish_reason="stop")]
    pieces: list[Step] = [Delta("a", model="local") for _ in range(40)]
    return [*pieces, Delta(finish_reason="stop", usage=Usage(1, 40))]


MODEL = ScriptedModel(answering, name="local")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("mcp")
    with serving_documents(folder, MODEL) as url, httpx2.Client(timeout=90) as http:
        ingested(http, f"{url}/rag/collections/handbook", LEAVE)
        ingested(http, f"{url}/rag/shared/rules", {"name": "rule.md", "text": "No running."})
        many = [{"name": f"{n}.md", "text": f"Number {n}."} for n in range(PAGE + 5)]
        ingested(http, f"{url}/rag/collections/many", *many)
        yield url


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.long
async def test_documents_are_listed_in_pages_and_read_as_text(url: str, mode: str) -> None:
    async with connected(url, mode=mode) as client:
        resources: list[Any] = []
        cursor, pages = None, 0
        while pages == 0 or cursor:
            page = await client.list_resources(cursor=cursor)
            resources, cursor, pages = [*resources, *page.resources], page.next_cursor, pages + 1
        names = [resource.name for resource in resources]
        assert pages == 2 and len(names) == len(set(map(str, names))) == PAGE + 5 + 2 + 3
        by_name = {resource.name: str(resource.uri) for resource in resources}
        assert by_name["handbook"] == "rag://collections/handbook" and by_name["rules"] == "rag://shared/rules"
        text: Any = await client.read_resource(by_name["leave.md"])
        assert "30 days of leave" in text.contents[0].text and text.contents[0].mime_type == "text/plain"
        shared: Any = await client.read_resource("rag://shared/rules")
        assert by_name["rule.md"] in shared.contents[0].text
        templates = await client.list_resource_templates()
        assert len(templates.resource_templates) == 2
        for wrong in ("rag://collections/none", "rag://collections/handbook/documents/x", "file:///etc/passwd"):
            with pytest.raises(MCPError):
                await client.read_resource(wrong)
        with pytest.raises(MCPError, match="cursor"):
            await client.list_resources(cursor="rag://collections/nobodys|")


@pytest.mark.long
async def test_prompts_name_what_they_need(url: str) -> None:
    async with connected(url) as client:
        prompts = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
        assert set(prompts) == {"answer_from_documents", "compare_models"}
        assert [argument.name for argument in prompts["answer_from_documents"].arguments or ()] == [
            "collection",
            "question",
        ]
        made: Any = await client.get_prompt(
            "answer_from_documents", {"collection": "handbook", "question": "How long?"}
        )
        assert "rag_search" in made.messages[0].content.text and "How long?" in made.messages[0].content.text
        with pytest.raises(MCPError, match="Question is required"):
            await client.get_prompt("compare_models", {})
        with pytest.raises(MCPError, match="No prompt"):
            await client.get_prompt("nothing", {})


@pytest.mark.long
async def test_a_call_reports_its_progress_where_that_is_asked_for(url: str) -> None:
    heard: list[float] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with connected(url) as client:
        told = await client.call_tool("local_generate", {"prompt": "hi"}, progress_callback=report)
        assert text_of(told) == "a" * 40
        assert heard == sorted(heard) and len(heard) >= 2
        assert text_of(await client.call_tool("local_generate", {"prompt": "hi"})) == "a" * 40


@pytest.mark.long
async def test_a_call_that_is_cancelled_ends_the_models_work(url: str) -> None:
    async with connected(url) as client:
        waiting = asyncio.create_task(client.call_tool("local_generate", {"prompt": "wait"}))
        async with asyncio.timeout(200):
            assert await asyncio.to_thread(until, lambda: MODEL.open == 1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert await asyncio.to_thread(until, lambda: MODEL.open == 0)


@pytest.mark.long
async def test_the_bridge_hands_on_all_of_it(url: str) -> None:
    heard: list[float] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with connected(url) as service, Client(bridging(service)) as client:
        first = await client.list_resources()
        second = await client.list_resources(cursor=first.next_cursor)
        assert len(first.resources) == PAGE and second.resources and second.next_cursor is None
        assert len((await client.list_resource_templates()).resource_templates) == 2
        read: Any = await client.read_resource("rag://shared/rules")
        assert "rule.md" in read.contents[0].text
        with pytest.raises(MCPError, match="NOT_FOUND"):
            await client.read_resource("rag://collections/none")
        assert {prompt.name for prompt in (await client.list_prompts()).prompts} >= {"compare_models"}
        prompt: Any = await client.get_prompt("compare_models", {"question": "How long?"})
        assert "How long?" in prompt.messages[0].content.text
        told = await client.call_tool("local_generate", {"prompt": "hi"}, progress_callback=report)
        assert text_of(told) == "a" * 40 and len(heard) >= 2
        waiting = asyncio.create_task(client.call_tool("local_generate", {"prompt": "wait"}))
        async with asyncio.timeout(200):
            assert await asyncio.to_thread(until, lambda: MODEL.open == 1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert await asyncio.to_thread(until, lambda: MODEL.open == 0)
