"""Sessions of MCP servers that are forgotten, and tools whose schemas are of any draft."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from apps.agents.config import McpServerConfig
from apps.agents.roster import McpServers
from apps.agents.schema_check import SchemaCheck
from apps.agents.tests.running import CALLER
from apps.agents.tools import ToolContext, ToolError
from apps.api.src.observability.logs import LOUD
from apps.tests.support.forgetful_mcp import ODD, ForgetfulMcp
from apps.tests.support.serving import serving
from apps.tests.support.waiting import until

CONTEXT = ToolContext(CALLER)


@pytest.fixture
def server() -> Iterator[tuple[ForgetfulMcp, McpServers]]:
    forgetful = ForgetfulMcp()
    with serving(forgetful.app) as url:
        yield forgetful, McpServers({"f": McpServerConfig(url=f"{url}/mcp", tools=("odd",), connect_seconds=60)})


async def test_a_session_that_is_forgotten_is_begun_anew_once_and_the_call_goes_on(
    server: tuple[ForgetfulMcp, McpServers], caplog: pytest.LogCaptureFixture
) -> None:
    forgetful, servers = server
    assert "mcp" in LOUD
    for name in LOUD:
        caplog.set_level(logging.WARNING, name)
    try:
        (odd,) = await servers.tools("f", "*")
        assert await odd.invoke(CONTEXT, {"count": 1}) == '{"count": 1}'
        forgetful.known.clear()
        assert await odd.invoke(CONTEXT, {"count": 2}) == '{"count": 2}'
        assert len(forgetful.sessions) == 2 and forgetful.calls == [{"count": 1}, {"count": 2}]
        forgetful.loses_all = True
        with pytest.raises(ToolError, match="forgets its sessions") as refused:
            await odd.invoke(CONTEXT, {"count": 3})
        assert len(forgetful.sessions) == 3
    finally:
        await servers.aclose()
    said = caplog.text + str(refused.value)
    assert not [session for session in forgetful.sessions if session in said]


async def test_a_call_at_work_is_neither_ended_nor_made_again_where_its_session_is_forgotten(
    server: tuple[ForgetfulMcp, McpServers],
) -> None:
    forgetful, servers = server
    try:
        (odd,) = await servers.tools("f", "*")
        at_work = asyncio.ensure_future(odd.invoke(CONTEXT, {"held": True}))
        assert await asyncio.to_thread(until, lambda: forgetful.calls == [{"held": True}])
        forgetful.known.clear()
        assert await odd.invoke(CONTEXT, {"count": 2}) == '{"count": 2}'
        forgetful.released.set()
        assert await at_work == '{"held": true}'
        assert forgetful.calls == [{"held": True}, {"count": 2}] and len(forgetful.sessions) == 2
    finally:
        forgetful.released.set()
        await servers.aclose()


async def test_a_call_whose_answer_breaks_off_is_not_made_again_where_its_session_is_forgotten(
    server: tuple[ForgetfulMcp, McpServers],
) -> None:
    forgetful, servers = server
    try:
        (odd,) = await servers.tools("f", "*")
        with pytest.raises(ToolError, match="refused: SSE stream ended"):
            await odd.invoke(CONTEXT, {"broken": True})
        assert forgetful.resumed and forgetful.calls == [{"broken": True}]
        assert await odd.invoke(CONTEXT, {"count": 2}) == '{"count": 2}'
        assert forgetful.calls == [{"broken": True}, {"count": 2}]
    finally:
        await servers.aclose()


async def test_a_refusal_is_no_forgotten_session(server: tuple[ForgetfulMcp, McpServers]) -> None:
    forgetful, servers = server
    try:
        (odd,) = await servers.tools("f", "*")
        for _ in range(2):
            with pytest.raises(ToolError, match="not that one"):
                await odd.invoke(CONTEXT, {"refused": True})
        assert len(forgetful.calls) == 2 and len(forgetful.sessions) == 1
    finally:
        await servers.aclose()


async def test_a_tool_of_an_older_draft_can_be_called(server: tuple[ForgetfulMcp, McpServers]) -> None:
    _, servers = server
    try:
        (odd,) = await servers.tools("f", "*")
        assert await odd.invoke(CONTEXT, {"pair": [1, "ä"], "count": 2**63})
        for wrong in ({"count": 0}, {"pair": ["x", "y"]}):
            with pytest.raises(ToolError, match="Wrong arguments"):
                await odd.invoke(CONTEXT, wrong)
    finally:
        await servers.aclose()


@pytest.mark.parametrize(
    ("schema", "value", "right"),
    [
        (ODD, {"pair": [1, "a"]}, True),
        ({"items": [{"type": "integer"}]}, ["a"], False),
        ({"prefixItems": [{"type": "integer"}]}, ["a"], False),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "items": [{"type": "integer"}]}, ["a"], False),
        ({"$schema": "urn:mine", "type": "integer"}, "a", False),
        ({"minimum": 3, "exclusiveMinimum": True, "$schema": "http://json-schema.org/draft-04/schema#"}, 3, False),
        ({"pattern": r"^\p{L}$"}, "1", True),
        ({"pattern": "^a$"}, "b", False),
        ({"patternProperties": {r"\p{L}": {}}}, {"a": 1}, True),
        ({"multipleOf": 0.1}, 10**400, True),
        ({"$ref": "http://elsewhere.example/x"}, 1, True),
        ({"type": "any"}, 1, True),
        ({"properties": 3}, {"a": 1}, True),
        ({"maximum": 2**64}, 2**64 + 1, False),
    ],
)
def test_a_check_is_right_where_it_can_be_made_and_never_a_crash(schema: Any, value: Any, right: bool) -> None:
    assert (not SchemaCheck(schema).faults(value)) is right
