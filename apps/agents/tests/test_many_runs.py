"""Fifty runs at once: all end well, and what they held is given back."""

import asyncio
import tracemalloc

import pytest

from apps.agents.tests.running import CALLER, OWN, agents_of, declared, read
from apps.agents.tools import function_tool
from apps.core.agent_runs import MemoryRuns
from apps.core.messages import user_message
from apps.models.scripted import ScriptedModel, calling, in_turns, saying

AT_ONCE = 50
MOST_BYTES_A_RUN = 1_000_000


@pytest.mark.long
async def test_fifty_runs_at_once_in_bounded_memory() -> None:
    async def page() -> str:
        """Read a large page."""
        await asyncio.sleep(0.01)
        return "x" * 1_000_000

    script = in_turns(*[calling(("page", {}), ("calculator", {"expression": "1 + 1"}))] * 5, saying("done"))
    agents = agents_of(
        ScriptedModel(script), declared("page", "calculator"), function_tool(page), store=MemoryRuns(most=10)
    )

    async def one() -> str:
        session = agents.begin("a", CALLER, user_message("hi"))
        await read(session)
        return session.run.answer

    assert await one() == "done"
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(2):
        assert await asyncio.gather(*(one() for _ in range(AT_ONCE))) == ["done"] * AT_ONCE
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # a page that is being cut is held whole, once a run
    assert peak - before < AT_ONCE * 2 * MOST_BYTES_A_RUN
    assert after - before < 10 * MOST_BYTES_A_RUN
    assert agents._sessions == {}
    assert OWN
