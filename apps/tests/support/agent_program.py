"""The service with two agents on a scripted model, as a program of its own: for the tests that restart it.

python -m apps.tests.support.agent_program PORT
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from apps.agents.config import AgentsConfig
from apps.agents.tools import function_tool
from apps.core.messages import ChatRequest
from apps.core.settings import Settings
from apps.models.scripted import ScriptedModel, Step, calling, in_turns, saying
from apps.tests.support.agent_serving import agent, build

BUY = "Pay three times at once."


async def pay(amount: int) -> str:
    """Pay an amount; each payment is a line of a file."""
    with Path("payments.txt").open("a") as file:  # noqa: ASYNC230 - a few bytes
        file.write(f"{amount}\n")
    return f"paid {amount}"


def main() -> None:
    configured = Settings()
    payer = agent("pay", "calculator", approval=["pay"])
    declared = AgentsConfig(agents={"payer": payer, "buyer": payer.model_copy(update={"instructions": BUY})})
    one = calling(("pay", {"amount": 5}), ("calculator", {"expression": "2 + 3"}))
    three = calling(*(("pay", {"amount": amount}) for amount in (1, 2, 3)))

    def asked(request: ChatRequest) -> Sequence[Step]:
        return three(request) if request.messages[0].content == BUY else one(request)

    script = in_turns(asked, saying("It is ", "paid."))
    app = build(declared, ScriptedModel(script), [function_tool(pay)], data_dir=configured.data_dir)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None)


if __name__ == "__main__":
    main()
