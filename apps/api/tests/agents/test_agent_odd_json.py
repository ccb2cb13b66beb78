"""What a model writes that Python reads and JSON cannot carry: it ends no run, and what is shown is what runs."""

from collections.abc import Iterator, Sequence

import httpx2
import pytest

from apps.core.messages import ChatRequest, read_json_text
from apps.models.scripted import Script, ScriptedModel, Step, calling, in_turns, saying
from apps.tests.support.agent_serving import agent, read_run, serving_agents

ASK = {"prompt": "1 + 1?"}
ODD = [
    '{"expression": NaN}',
    '{"expression": 1e999}',
    '{"expression": "\\ud800"}',
    "[" * 2_000,
    '{"expression": -Infinity}',
]


class Scripts:
    """The script of the test that runs."""

    def __init__(self) -> None:
        self.current: Script = saying("")

    def __call__(self, request: ChatRequest) -> Sequence[Step]:
        return self.current(request)


SCRIPTS = Scripts()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A service with an agent that calculates, and one that asks before it does."""
    agents = {"a": agent("calculator"), "asking": agent("calculator", approval=["calculator"])}
    with serving_agents(agents, ScriptedModel(SCRIPTS)) as base:
        yield base


@pytest.mark.parametrize("arguments", ODD)
def test_odd_arguments_of_a_tool_are_told_to_the_model(arguments: str, url: str, http: httpx2.Client) -> None:
    SCRIPTS.current = in_turns(calling(("calculator", arguments)), saying("fine"))
    whole = http.post(f"{url}/agents/a/run", json=ASK)
    assert (whole.status_code, whole.json()["status"], whole.json()["answer"]) == (200, "done", "fine")
    stream = read_run(http.post(f"{url}/agents/a/run?stream=true", json=ASK).content)
    assert stream.kinds[-1] == "done"
    assert all(read_json_text(data.decode()) for kind, data in stream.events if kind != "message")
    kept = http.get(f"{url}/agents/runs/{whole.json()['run']}")
    assert kept.status_code == 200
    shown = next(step for step in kept.json()["steps"] if step["kind"] == "tool")["arguments"]
    assert isinstance(shown, str)


@pytest.mark.parametrize("arguments", ODD)
def test_odd_arguments_wait_for_an_approval_as_they_are_shown(arguments: str, url: str, http: httpx2.Client) -> None:
    SCRIPTS.current = in_turns(calling(("calculator", arguments)), saying("fine"))
    paused = http.post(f"{url}/agents/asking/run", json=ASK)
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    approved = http.post(f"{url}/agents/runs/{paused.json()['run']}/approve")
    assert (approved.status_code, approved.json()["answer"]) == (200, "fine")


@pytest.mark.parametrize("answer", ['{"x": Infinity}', "[" * 2_000, '{"x": "\\udc00"}'])
def test_an_odd_answer_is_text(answer: str, url: str, http: httpx2.Client) -> None:
    SCRIPTS.current = saying(answer)
    run = http.post(f"{url}/agents/a/run", json=ASK)
    assert (run.status_code, run.json()["answer"]) == (200, answer)
