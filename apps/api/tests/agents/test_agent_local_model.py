"""The example's calculator on the packaged model: it calls the tool within its schema and answers with its result."""

import json
import time
from pathlib import Path

import httpx2
import jsonschema
import pytest

from apps.agents.builtin_tools import calculator
from apps.agents.config import load_agents_config
from apps.agents.tools import function_tool
from apps.api.src.wiring.agents import TOOLS
from apps.local.model import LocalModel
from apps.tests.support.agent_serving import read_run, serving_agents
from apps.tests.support.serving import settings

pytestmark = pytest.mark.local
EXAMPLE = Path(__file__).parents[4] / "infra" / "agents.example.yaml"
QUESTIONS = {
    "What is 1234 * 5678?": "7006652",
    "What is 17 + 25?": "42",
    "How much is 99 times 3?": "297",
    "What is 1000 / 8?": "125",
    "What is 987654 - 123456?": "864198",
}


@pytest.mark.long
def test_the_calculator_computes_with_the_packaged_model(http: httpx2.Client) -> None:
    agents = load_agents_config(EXAMPLE, TOOLS).agents
    local = LocalModel(settings(local_model="no-such-org/tests-of-agents"))
    schema = function_tool(calculator).parameters
    with serving_agents(dict(agents), local) as url:
        _wait_for(local)
        for question, result in QUESTIONS.items():
            run = http.post(f"{url}/agents/calculator/run", json={"prompt": question}).json()
            steps = [step for step in run["steps"] if step["kind"] == "tool"]
            assert steps
            for step in steps:
                jsonschema.validate(step["arguments"], schema)
            assert result in run["answer"], run
        stream = read_run(
            http.post(f"{url}/agents/calculator/run?stream=true", json={"prompt": "What is 1234 * 5678?"}).content
        )
    assert stream.kinds[:2] == ["tool_call", "tool_result"]
    assert "7006652" in stream.text
    assert json.loads(stream.events[-1][1])["usage"]["completion_tokens"] > 0


def _wait_for(local: LocalModel) -> None:
    for _ in range(600):
        readiness = local.readiness()
        if readiness.state != "loading":
            break
        time.sleep(0.1)
    assert (readiness.state, readiness.name) == ("ready", "SmolLM2-135M-Instruct")
