"""A typed function becomes a tool: its schema, its checks, and what it is handed."""

from typing import Annotated, Any

import pytest
from pydantic import Field

from apps.agents.builtin_tools import clock, search_tool
from apps.agents.tools import Redaction, ToolContext, ToolError, function_tool
from apps.core.callers import Caller
from apps.core.errors import NotFound

CONTEXT = ToolContext(Caller("tenant"))


async def weather(context: ToolContext, city: Annotated[str, Field(description="A city")], days: int = 1) -> str:
    """Tell the weather."""
    return f"{context.caller.tenant} {city} {days}"


async def test_the_schema_comes_from_the_types_and_the_context_is_not_in_it() -> None:
    tool = function_tool(weather)
    assert (tool.name, tool.description) == ("weather", "Tell the weather.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "A city"},
            "days": {"type": "integer", "default": 1},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    assert await tool.invoke(CONTEXT, {"city": "Rome"}) == "tenant Rome 1"


@pytest.mark.parametrize("arguments", [{}, {"city": 3}, {"city": "Rome", "days": "soon"}, {"city": "Rome", "x": 1}])
async def test_wrong_arguments_are_told_and_nothing_is_called(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolError, match="Wrong arguments: "):
        await function_tool(weather).invoke(CONTEXT, arguments)


def test_a_function_without_words_or_types_is_no_tool() -> None:
    def silent(city: str) -> str:
        return city

    def untyped(city) -> str:  # type: ignore[no-untyped-def]
        """Has words."""
        return str(city)

    with pytest.raises(TypeError, match="docstring"):
        function_tool(silent)
    with pytest.raises(TypeError, match="no type"):
        function_tool(untyped)


def test_the_clock_knows_time_zones() -> None:
    assert clock("Europe/Berlin")["time"][-6:] in ("+01:00", "+02:00")
    assert clock()["time"].endswith("+00:00")
    for wrong in ("Mars/Olympus", "../../etc/passwd", "/etc/passwd", ""):
        with pytest.raises(ToolError):
            clock(wrong)


class Shelf:
    """Documents of two tenants."""

    async def collections(self, caller: Caller) -> list[str]:
        return {"tenant": ["hr", "legal"], "other": ["secret"]}.get(caller.tenant, [])

    async def search(self, caller: Caller, collection: str, query: str, top_k: int) -> list[dict[str, Any]]:
        if collection == "legal" and query == "fail":
            raise NotFound("gone")
        return [{"collection": collection, "text": query, "score": len(collection)}]


async def test_search_looks_into_the_callers_collections_only() -> None:
    tool = search_tool(Shelf())
    found = await tool.invoke(CONTEXT, {"query": "leave"})
    assert [passage["collection"] for passage in found] == ["legal", "hr"]
    with pytest.raises(ToolError, match="no collection secret; there are: hr, legal"):
        await tool.invoke(CONTEXT, {"query": "leave", "collection": "secret"})
    narrowed = ToolContext(Caller("tenant"), ("hr",))
    assert [p["collection"] for p in await tool.invoke(narrowed, {"query": "x"})] == ["hr"]
    with pytest.raises(ToolError, match="no collection legal"):
        await tool.invoke(narrowed, {"query": "x", "collection": "legal"})
    with pytest.raises(ToolError, match="gone"):
        await tool.invoke(CONTEXT, {"query": "fail"})


def test_secrets_are_taken_out_of_texts_and_short_words_are_left() -> None:
    redact = Redaction(["sk-very-secret", "sk-very-secret-longer", "abc", ""])
    assert redact("key sk-very-secret-longer, sk-very-secret, abc") == "key [secret], [secret], abc"
