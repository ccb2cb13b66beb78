"""What an agent's step costs beside its model and its tools: runs over a scripted model, with the runs kept in SQLite.

python -m eval.agents_overhead
"""

import asyncio
import json
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from apps.agents.agents import Agents
from apps.agents.builtin_tools import calculator
from apps.agents.config import AgentConfig, AgentsConfig, ToolConfig
from apps.agents.roster import Roster
from apps.agents.tools import function_tool
from apps.core.agent_runs import MemoryRuns, RunStore
from apps.core.callers import Caller
from apps.core.messages import user_message
from apps.models.scripted import ScriptedModel, calling, in_turns, saying
from apps.operations.agent_runs import AgentRuns
from apps.operations.database import Database

STEPS = 10
RUNS = 40
AT_ONCE = 50
CALLER = Caller("tenant")
SCRIPT = in_turns(*[calling(("calculator", {"expression": "1234 * 5678"}))] * (STEPS - 1), saying("It is 7006652."))


def _agents(store: RunStore) -> Agents:
    agent = AgentConfig(tools=(ToolConfig(tool="calculator"),), instructions="Compute.")
    tools = {"calculator": function_tool(calculator)}
    return Agents(Roster(AgentsConfig(agents={"calc": agent}), tools), ScriptedModel(SCRIPT), store)


async def _one(agents: Agents) -> float:
    """Milliseconds a step."""
    started = time.perf_counter()
    session = agents.begin("calc", CALLER, user_message("What is 1234 * 5678?"))
    async for _ in session.events():
        pass
    assert session.run.status == "done"  # noqa: S101 - a benchmark of failures would say nothing
    return (time.perf_counter() - started) * 1000 / STEPS


async def _measured(store: RunStore) -> dict[str, float]:
    agents = _agents(store)
    await _one(agents)
    alone = [await _one(agents) for _ in range(RUNS)]
    started = time.perf_counter()
    await asyncio.gather(*(_one(agents) for _ in range(AT_ONCE)))
    together = (time.perf_counter() - started) * 1000 / STEPS / AT_ONCE
    return {
        "median": _rounded(median(alone)),
        "worst": _rounded(max(alone)),
        "of_50_at_once": _rounded(together),
        "kb_a_run_of_50": await _memory(agents),
    }


async def _memory(agents: Agents) -> float:
    """Kilobytes at the peak of fifty runs at once, a run."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    await asyncio.gather(*(_one(agents) for _ in range(AT_ONCE)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return _rounded((peak - before) / 1024 / AT_ONCE)


def _rounded(value: float) -> float:
    return round(value, 3)


async def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds a step and kilobytes a run, in memory and with SQLite."""
    database = Database("", folder)
    await database.start()
    try:
        if not await database.ready(30):
            raise RuntimeError("the database was not opened")
        return {"memory": await _measured(MemoryRuns()), "sqlite": await _measured(AgentRuns(database))}
    finally:
        await database.aclose()


def main(arguments: Sequence[str] = ()) -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder)))
    print(json.dumps({"figures": figures, "steps": STEPS, "runs": RUNS}, indent=2))


if __name__ == "__main__":
    main()
