"""The service with one agent on a scripted model, as a program of its own: for the tests that restart it.

python -m apps.api.tests.agent_program PORT
"""

import sys
from pathlib import Path

import uvicorn

from apps.agents.config import AgentsConfig
from apps.agents.tools import function_tool
from apps.api.tests.agent_serving import agent, build
from apps.core.settings import Settings
from apps.models.scripted import ScriptedModel, calling, in_turns, saying


async def pay(amount: int) -> str:
    """Pay an amount; each payment is a line of a file."""
    with Path("payments.txt").open("a") as file:  # noqa: ASYNC230 - a few bytes
        file.write(f"{amount}\n")
    return f"paid {amount}"


def main() -> None:
    configured = Settings()
    declared = AgentsConfig(agents={"payer": agent("pay", "calculator", approval=["pay"])})
    script = in_turns(
        calling(("pay", {"amount": 5}), ("calculator", {"expression": "2 + 3"})),
        saying("It is ", "paid."),
    )
    app = build(declared, ScriptedModel(script), [function_tool(pay)], data_dir=configured.data_dir)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None)


if __name__ == "__main__":
    main()
