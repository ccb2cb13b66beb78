"""Agents as models on /v1, with the official client: whole and streamed, their costs on record, their limits kept."""

from typing import Any

import httpx2
import openai
import pytest

from apps.core.calls import Usage
from apps.models.scripted import ScriptedModel, calling, in_turns, saying
from apps.tests.support.agent_serving import Book, agent, serving_agents

USED = Usage(10, 5, 0, 0.25)
COMPUTING = in_turns(calling(("calculator", {"expression": "1234 * 5678"}), usage=USED), saying("It is ", "7006652."))
MESSAGES: Any = [{"role": "system", "content": "Short."}, {"role": "user", "content": "What is 1234 * 5678?"}]


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, http_client=None)


def test_the_official_client_asks_an_agent_as_a_model() -> None:
    book = Book()
    serving = serving_agents({"calc": agent("calculator")}, ScriptedModel(COMPUTING), books=[book])
    with serving as url, client(url) as asking:
        whole = asking.chat.completions.with_raw_response.create(model="agent/calc", messages=MESSAGES)
        answer = whole.parse()
        with asking.chat.completions.create(
            model="agent/calc", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = list(stream)
    assert answer.choices[0].message.content == "It is 7006652."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 5)
    assert (whole.headers["x-cost-usd"], whole.headers["x-model"]) == ("0.25000000", "scripted")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "It is 7006652."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15
    assert [(record.requested_model, record.cost, record.outcome) for record in book.closed] == [
        ("agent/calc", 0.25, "ok")
    ] * 2


def test_unknown_agents_tools_of_ones_own_and_approvals_are_refused() -> None:
    agents = {"calc": agent("calculator"), "asks": agent("clock", approval=["clock"])}
    model = ScriptedModel(lambda request: calling(("clock", {}))(request))
    with serving_agents(agents, model) as url, client(url) as asking:
        with pytest.raises(openai.NotFoundError):
            asking.chat.completions.create(model="agent/nobody", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError):
            asking.chat.completions.create(
                model="agent/calc",
                messages=MESSAGES,
                tools=[{"type": "function", "function": {"name": "x", "parameters": {}}}],
            )
        with pytest.raises(openai.ConflictError, match="needs an approval"):
            asking.chat.completions.create(model="agent/asks", messages=MESSAGES)


def test_an_agent_that_leads_back_to_an_agent_is_refused(tmp_path: Any, http: httpx2.Client) -> None:
    """By way of a routing file, which the declaration of agents cannot see."""
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "providers: {local: {kind: local}, agents: {kind: agent}}\n"
        "models: {round: {targets: [{provider: agents, model: agent/a}]}}\n"
    )
    loop = agent("clock").model_copy(update={"model": "round"})
    with serving_agents({"a": loop}, ScriptedModel(saying("x")), gateway_config=file) as url:
        answer = http.post(f"{url}/agents/a/run", json={"prompt": "hi"})
        assert answer.status_code == 422
        assert answer.json()["error"]["message"] == "An agent cannot be an agent's model"
        assert http.get(f"{url}/v1/models/agent/a").json()["id"] == "agent/a"
