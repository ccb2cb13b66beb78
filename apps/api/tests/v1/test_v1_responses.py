"""POST /v1/responses where a target knows chat only: translated there and back, each event in the SDK's own types."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from apps.api.src.v1.execution import new_record
from apps.api.src.v1.relay import with_earlier
from apps.api.src.wiring.gateway import build_gateway
from apps.core.callers import Caller
from apps.core.calls import Usage
from apps.core.deltas import Delta, TokenLogprob, ToolCallDelta
from apps.core.messages import ChatRequest, Message
from apps.gateway.protocol import WireCall
from apps.models.event_stream import EventStreamDecoder
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.keys import bearer, make_keys
from apps.tests.support.routing import HEALTHY, name, provider, routing_file
from apps.tests.support.serving import serving_models, settings
from eval.mock_upstream import MockUpstream

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": True}
OF_A_TEXT = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def hello(request: ChatRequest) -> Sequence[Step]:
    limited = request.max_tokens == 2
    usage = Usage(5, 2, cached_tokens=3)
    return [Delta("Hel"), Delta("lo\n"), Delta("", (), "length" if limited else "stop", usage, "tiny")]


@pytest.fixture(scope="module")
def model() -> ScriptedModel:
    return ScriptedModel(hello, name="tiny")


@pytest.fixture
def local(model: ScriptedModel) -> ScriptedModel:
    """The model of the service, which has not been called yet."""
    model.requests.clear()
    return model


@pytest.fixture(scope="module")
def url(model: ScriptedModel) -> Iterator[str]:
    with serving_models(local=model) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="unused") as client:
        yield client


@pytest.fixture(scope="module")
def chat_only(mock: MockUpstream) -> Iterator[str]:
    """Our address, in front of an upstream that answers 404 to everything but chat."""
    with serving_models(openai_base_url=mock.base_url.replace("/v1", "/chat-only/v1"), retry_attempts=1) as url:
        yield f"{url}/v1"


def events_of(http: httpx2.Client, url: str, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream, each checked strictly against the SDK's types, numbers and names included."""
    answer = http.post(f"{url}/responses", json={"stream": True, "input": "hi", **body})
    assert answer.status_code == 200
    events = list(EventStreamDecoder().feed(answer.content))
    parsed = [json.loads(event.data) for event in events]
    assert [one["sequence_number"] for one in parsed] == list(range(len(parsed)))
    for event, one in zip(events, parsed, strict=True):
        assert event.type == one["type"]
        checked = EVENT.validate_python(one, strict=False)
        assert not checked.model_extra, f"{one['type']} has fields that OpenAI's has not: {checked.model_extra}"
    return parsed


def test_a_streamed_answer_is_the_full_sequence_of_events(http: httpx2.Client, url: str) -> None:
    events = events_of(http, url, model="tiny")
    assert [event["type"] for event in events] == OF_A_TEXT
    created, added, done, last = events[0], events[2], events[-2], events[-1]
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert added["item"]["content"] == []
    assert [event["delta"] for event in events[4:6]] == ["Hel", "lo\n"]
    assert done["item"] == last["response"]["output"][0]
    assert done["item"]["content"][0]["text"] == "Hello\n"
    assert {event.get("item_id", done["item"]["id"]) for event in events[2:-1]} == {done["item"]["id"]}
    assert last["response"]["usage"]["total_tokens"] == 7


def test_a_whole_answer_is_a_response_object(http: httpx2.Client, url: str) -> None:
    asked = {"model": "tiny", "input": "hi", "instructions": "Be brief", "metadata": {"a": "b"}, "temperature": 0.5}
    body = http.post(f"{url}/responses", json=asked).json()
    answer = Response.model_validate(body)
    assert answer.output_text == "Hello\n"
    assert (answer.status, answer.model, answer.incomplete_details) == ("completed", "tiny", None)
    assert (answer.instructions, answer.metadata, answer.temperature) == ("Be brief", {"a": "b"}, 0.5)
    assert body["store"] is True
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens) == (5, 3)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_at_its_limit_is_incomplete(
    client: openai.OpenAI, http: httpx2.Client, url: str, stream: bool
) -> None:
    if stream:
        last = events_of(http, url, model="tiny", max_output_tokens=2)[-1]
        assert last["type"] == "response.incomplete"
        answer = Response.model_validate(last["response"])
    else:
        answer = client.responses.create(model="tiny", input="hi", max_output_tokens=2)
    assert (answer.status, answer.output[0].status) == ("incomplete", "incomplete")  # type: ignore[union-attr]
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_instructions_and_items_become_the_conversation(client: openai.OpenAI, local: ScriptedModel) -> None:
    items: Any = [
        {"role": "user", "content": "one"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
        {"role": "developer", "content": [{"type": "input_text", "text": "three"}]},
    ]
    client.responses.create(model="tiny", instructions="Be brief", input=items, top_p=0.5, max_output_tokens=9)
    request = local.requests[0]
    assert request.messages == (
        Message("system", "Be brief"),
        Message("user", "one"),
        Message("assistant", "two"),
        Message("developer", "three"),
    )
    assert (request.top_p, request.max_tokens) == (0.5, 9)


def test_a_streams_answer_can_be_sent_back_as_input(client: openai.OpenAI, local: ScriptedModel) -> None:
    first = client.responses.create(model="tiny", input="hi")
    items: Any = [item.to_dict() for item in first.output]
    client.responses.create(model="tiny", input=items)
    assert local.requests[-1].messages == (Message("assistant", "Hello\n"),)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"store": "yes"}, "INVALID_TYPE", "store"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "INVALID_VALUE", "input"),
        ({"input": [{"type": "reasoning", "content": "x"}]}, "INVALID_TYPE", "input.0.content"),
        ({"previous_response_id": "resp_1"}, "INVALID_VALUE", "previous_response_id"),
        ({"conversation": "conv_1"}, "INVALID_VALUE", "conversation"),
        ({"background": "yes"}, "INVALID_TYPE", "background"),
        ({"prompt": {"id": "p"}}, "INVALID_VALUE", "prompt"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "INVALID_VALUE", "input.0.id"),
        ({"input": [{"type": "computer_call"}]}, "INVALID_VALUE", "input.0.type"),
        ({"input": []}, "INVALID_VALUE", "input"),
        ({"input": None}, "MISSING_REQUIRED_FIELD", "input"),
        ({"input": [{"role": "user", "content": 3}]}, "INVALID_TYPE", "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "INVALID_VALUE", "input.0.content.0.type"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "MISSING_REQUIRED_FIELD", "input.0.call_id"),
        ({"tools": [{"type": "web_search"}]}, "INVALID_VALUE", "tools.0.type"),
        ({"tool_choice": {"type": "file_search"}}, "INVALID_VALUE", "tool_choice"),
        ({"truncation": "auto"}, "INVALID_VALUE", "truncation"),
        ({"include": ["file_search_call.results"]}, "INVALID_VALUE", "include"),
        ({"top_logprobs": 2}, "INVALID_VALUE", "top_logprobs"),
        ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "INVALID_VALUE", "top_logprobs"),
        ({"max_output_tokens": 0}, "INVALID_VALUE", "max_output_tokens"),
        ({"temperature": 3}, "INVALID_VALUE", "temperature"),
        ({"text": {"verbosity": "low"}}, "INVALID_VALUE", "text.verbosity"),
        ({"reasoning": {"effort": "low"}}, "INVALID_VALUE", "reasoning.effort"),
        ({"x_unknown": 1}, "INVALID_VALUE", "x_unknown"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_the_callers_own_word(
    http: httpx2.Client, url: str, local: ScriptedModel, fields: dict[str, Any], code: str, field: str
) -> None:
    answer = http.post(f"{url}/responses", json={"model": "tiny", "input": "hi", **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["error_code"], error["field"]) == (400, code, field)
    assert not local.requests


def test_what_means_nothing_special_is_taken(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="tiny",
        input="hi",
        store=False,
        background=False,
        truncation="disabled",
        include=[],
        previous_response_id=None,
        text={"format": {"type": "text"}},
        tools=[],
    )
    assert answer.output_text == "Hello\n"


def test_a_response_is_kept_and_gone_on_from(client: openai.OpenAI, local: ScriptedModel) -> None:
    first = client.responses.create(model="tiny", input="one", instructions="Be brief")
    *_, last = client.responses.create(
        model="tiny", input=[{"role": "user", "content": "two"}], previous_response_id=first.id, stream=True
    )
    assert last.type == "response.completed" and last.response.previous_response_id == first.id
    assert [message.content for message in local.requests[-1].messages] == ["one", "Hello\n", "two"]
    assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
    items: Any = list(client.responses.input_items.list(last.response.id, order="asc", limit=2))
    assert [(item.type, item.content[0].text) for item in items if item.type == "message"] == [
        ("message", "one"),
        ("message", "Hello\n"),
        ("message", "two"),
    ]
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(first.id)
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match=f"Response with id {first.id} not found."):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="tiny", input="three", previous_response_id=first.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
    # what went on from it has its conversation all the same
    client.responses.create(model="tiny", input="three", previous_response_id=last.response.id)
    assert [message.content for message in local.requests[-1].messages] == ["one", "Hello\n", "two", "Hello\n", "three"]


def test_items_that_are_kept_are_found_by_their_ids(client: openai.OpenAI, local: ScriptedModel) -> None:
    first = client.responses.create(model="tiny", input="one")
    (asked,) = client.responses.input_items.list(first.id)
    given: Any = [
        {"type": "item_reference", "id": asked.id},
        {"id": first.output[0].id},
        {"role": "user", "content": "two"},
    ]
    second = client.responses.create(model="tiny", input=given)
    assert [message.content for message in local.requests[-1].messages] == ["one", "Hello\n", "two"]
    # what was put in the places of references is a part of the response that it was said in
    client.responses.delete(first.id)
    client.responses.create(model="tiny", input=given)
    assert [message.content for message in local.requests[-1].messages] == ["one", "Hello\n", "two"]
    client.responses.create(model="tiny", input="three", previous_response_id=second.id)
    assert [message.content for message in local.requests[-1].messages] == ["one", "Hello\n", "two", "Hello\n", "three"]
    with pytest.raises(openai.BadRequestError, match="No item msg_none is kept here") as refused:
        client.responses.create(model="tiny", input=[given[0], {"type": "item_reference", "id": "msg_none"}])
    assert refused.value.param == "input.1.id"


def test_a_kept_response_is_for_keys_that_may_ask_its_model(
    mock: MockUpstream, http: httpx2.Client, tmp_path: Path
) -> None:
    chat = provider(mock.base_url, responses="chat")
    asked_as = {"models": {"mine": name(HEALTHY), "other": name(HEALTHY)}}
    content = {"providers": {"main": chat}, **asked_as}
    terms: list[dict[str, Any]] = [{"models": ["mine"]}, {"models": ["other"]}]
    auth: dict[str, Any] = {"auth": "on", "data_dir": tmp_path}
    mine, other = make_keys(settings(**auth), *({"tenant": "red", **each} for each in terms))
    with serving_models(gateway_config=str(routing_file(tmp_path, content)), **auth) as url:

        def ask(key: str, model: str, **body: Any) -> httpx2.Response:
            return http.post(f"{url}/v1/responses", headers=bearer(key), json={"model": model, **body})

        answer = ask(mine, "mine", input="hi").json()
        made, reference = answer["id"], {"type": "item_reference", "id": answer["output"][0]["id"]}
        assert http.get(f"{url}/v1/responses/{made}", headers=bearer(mine)).json()["id"] == made
        assert ask(mine, "mine", input="on", previous_response_id=made).status_code == 200
        for refused in (
            http.get(f"{url}/v1/responses/{made}", headers=bearer(other)),
            http.delete(f"{url}/v1/responses/{made}", headers=bearer(other)),
            ask(other, "other", input="on", previous_response_id=made),
            ask(other, "other", input=[reference, {"role": "user", "content": "on"}]),
        ):
            assert refused.status_code == 403 and "of that response" in refused.json()["error"]["message"]
        assert ask(mine, "mine", input=[reference, {"role": "user", "content": "on"}]).status_code == 200


def test_what_a_call_goes_on_from_is_reserved_for() -> None:
    gateway = build_gateway(settings(), ScriptedModel(hello, name="tiny"), None)
    asked = {"type": "message", "role": "user", "content": "x" * 40_000}
    assert gateway.stored_responses.keep("red", "tiny", {"id": "resp_g1", "output": []}, [asked], None)
    body = {"model": "tiny", "input": "on", "previous_response_id": "resp_g1"}
    for tenant, tokens in (("red", 10_000), ("blue", 0)):
        call = WireCall("/responses", json.dumps(body).encode(), body, True, Caller(tenant, "key"))
        record = new_record(with_earlier(call, gateway), gateway)
        assert record.estimated_tokens == pytest.approx(tokens, abs=100)


def test_what_is_not_to_be_kept_is_not(client: openai.OpenAI) -> None:
    response = client.responses.create(model="tiny", input="hi", store=False)
    assert response.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_without_a_time_nothing_is_kept() -> None:
    model = ScriptedModel(hello, name="tiny")
    with (
        serving_models(local=model, responses_ttl=0) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client,
    ):
        response = client.responses.create(model="tiny", input="hi")
        assert response.to_dict()["store"] is False
        with pytest.raises(openai.BadRequestError, match="send the conversation in input"):
            client.responses.create(model="tiny", input="hi", previous_response_id=response.id)


def scored(request: ChatRequest) -> Sequence[Step]:
    """A token a delta, and how many rivals were asked for."""
    top = tuple(TokenLogprob("b", b"b", -2.0) for _ in range(request.top_logprobs or 0))
    logprobs = () if request.top_logprobs is None else (TokenLogprob("a", b"a", -0.5, top),)
    return [Delta("a", logprobs=logprobs), Delta("a", logprobs=logprobs), Delta(finish_reason="stop", model="tiny")]


def test_log_probabilities_of_a_text_are_included_where_they_are_asked_for(http: httpx2.Client) -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    with serving_models(local=ScriptedModel(scored, name="tiny")) as url:
        events = events_of(http, f"{url}/v1", model="tiny", **asked)
        plain = http.post(f"{url}/v1/responses", json={"model": "tiny", "input": "hi"}).json()
    entry = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -2.0}]}
    assert [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"] == [[entry]] * 2
    written = {**entry, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -2.0, "bytes": [98]}]}
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == [written] * 2
    assert plain["output"][0]["content"][0]["logprobs"] == []


def test_function_calls_stream_their_arguments(http: httpx2.Client, chat_only: str, mock: MockUpstream) -> None:
    choice = {"type": "function", "name": "weather"}
    events = events_of(http, chat_only, model="tool-call", tools=[TOOL], tool_choice=choice)
    assert [event["type"].removeprefix("response.") for event in events[2:]] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    call = events[-1]["response"]["output"][0]
    assert (call["type"], call["name"], call["call_id"], call["arguments"]) == (
        "function_call",
        "weather",
        "call_mock",
        '{"a": 1}',
    )
    sent = mock.stats()["last_body"]
    function = {"name": "weather", "parameters": TOOL["parameters"], "strict": True}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}


def calling(request: ChatRequest) -> Sequence[Step]:
    call = ToolCallDelta(0, "call_1", "crm__find", "{}")
    return [Delta(tool_calls=(call,)), Delta("", (), "tool_calls", Usage(1, 1), "tiny")]


def test_a_call_of_a_namespaces_function_has_both_names(http: httpx2.Client) -> None:
    local = ScriptedModel(calling, name="tiny")
    inner = {"type": "function", "name": "find", "parameters": {"type": "object", "properties": {}}}
    space = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [inner]}
    with serving_models(local=local) as url:
        events = events_of(http, f"{url}/v1", model="tiny", tools=[space])
        last = events[-1]["response"]
        items = [event["item"] for event in events if "item" in event] + last["output"]
        assert [(item["namespace"], item["name"]) for item in items] == [("crm", "find")] * 3
        assert last["tools"] == [{**space, "tools": [{**inner, "strict": None}]}]
        body = {"model": "tiny", "input": "on", "tools": [space], "previous_response_id": last["id"]}
        assert http.post(f"{url}/v1/responses", json=body).status_code == 200
        wrong = {**space, "tools": [inner, {**inner, "name": "a b"}]}
        refused = http.post(f"{url}/v1/responses", json={"model": "tiny", "input": "on", "tools": [TOOL, wrong]})
    assert refused.json()["error"]["param"] == "tools.1.tools.1.name"
    assert [tool["function"]["name"] for tool in local.requests[0].tools] == ["crm__find"]
    assert [call.name for message in local.requests[1].messages for call in message.tool_calls] == ["crm__find"]


def test_calls_and_their_outputs_go_back_to_the_upstream_as_messages(chat_only: str, mock: MockUpstream) -> None:
    with openai.OpenAI(base_url=chat_only, api_key="unused") as client:
        first = client.responses.create(model="tool-call", input="hi", tools=[TOOL])
        call: Any = first.output[0]
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        client.responses.create(
            model="m",
            input=[{"role": "user", "content": "hi"}, call.to_dict(), output],
            tools=[TOOL],
            text={"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True}},
        )
    sent = mock.stats()["last_body"]
    function = {"name": "weather", "arguments": '{"a": 1}'}
    assert sent["messages"] == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_mock", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_mock", "content": "rain"},
    ]
    schema = {"name": "s", "schema": {"type": "object"}, "strict": True}
    assert sent["response_format"] == {"type": "json_schema", "json_schema": schema}


def test_images_become_chats_image_parts(chat_only: str, mock: MockUpstream, http: httpx2.Client) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}
    content = [{"type": "input_text", "text": "what?"}, image]
    answer = http.post(f"{chat_only}/responses", json={"model": "m", "input": [{"role": "user", "content": content}]})
    assert answer.status_code == 200
    assert mock.stats()["last_body"]["messages"][0]["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": image["image_url"], "detail": "low"}},
    ]


def test_an_upstream_without_responses_is_asked_for_them_once(mock: MockUpstream, http: httpx2.Client) -> None:
    mock.reset()
    with serving_models(openai_base_url=mock.base_url.replace("/v1", "/chat-only/v1"), retry_attempts=1) as url:
        for _ in range(3):
            answer = http.post(f"{url}/v1/responses", json={"model": "m", "input": "hi"})
            assert answer.json()["output"][0]["content"][0]["text"].startswith("the quick")
    assert mock.stats()["requests"] == 3, "each was one chat call"


def test_an_unknown_model_of_such_an_upstream_stays_the_upstreams_error(chat_only: str, http: httpx2.Client) -> None:
    answer = http.post(f"{chat_only}/responses", json={"model": "fault-404", "input": "hi"})
    assert answer.status_code == 404
    assert answer.json()["error"]["details"]["upstream_status"] == 404


def thinking(request: ChatRequest) -> Sequence[Step]:
    usage = Usage(5, 4, reasoning_tokens=2)
    return [Delta(reasoning="Let me "), Delta(reasoning="see."), Delta("Hi"), Delta("", (), "stop", usage, "tiny")]


def test_what_a_model_thinks_is_an_item_and_goes_back_into_its_turn() -> None:
    local = ScriptedModel(thinking, name="tiny")
    with serving_models(local=local) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        whole = client.responses.create(model="tiny", input="hi", store=True)
        *_, last = events = list(client.responses.create(model="tiny", input="hi", stream=True))
        given: Any = [{"role": "user", "content": "hi"}, *(item.to_dict() for item in whole.output)]
        client.responses.create(model="tiny", input=[*given, {"role": "user", "content": "and?"}])
        chat = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
        chunks = list(
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True)
        )
    assert last.type == "response.completed"
    for response in (whole, last.response):
        thought, message = response.output
        assert thought.type == "reasoning" and thought.content is not None and message.type == "message"
        assert thought.content[0].text == "Let me see." and response.output_text == "Hi"
        assert response.usage is not None and response.usage.output_tokens_details.reasoning_tokens == 2
        assert response.to_dict()["store"] is True
    deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert deltas == ["Let me ", "see."]
    for event in events:
        EVENT.validate_python(event.to_dict())
    turns = local.requests[2].messages
    assert [(turn.role, turn.content, turn.reasoning) for turn in turns] == [
        ("user", "hi", None),
        ("assistant", "Hi", "Let me see."),
        ("user", "and?", None),
    ]
    assert chat.choices[0].message.to_dict()["reasoning_content"] == "Let me see."
    assert chat.usage is not None and chat.usage.completion_tokens_details is not None
    assert chat.usage.completion_tokens_details.reasoning_tokens == 2
    told = [chunk.choices[0].delta.to_dict().get("reasoning_content") for chunk in chunks]
    assert [text for text in told if text] == ["Let me ", "see."]


def test_thoughts_are_left_out_and_bounded_where_that_is_asked_for(http: httpx2.Client) -> None:
    local = ScriptedModel(thinking, name="tiny")
    with serving_models(local=local) as url:

        def ask(path: str, **body: Any) -> httpx2.Response:
            return http.post(f"{url}/v1/{path}", json={"model": "tiny", "include_reasoning": False, **body})

        user = [{"role": "user", "content": "hi"}]
        chat = ask("chat/completions", messages=user, thinking_token_budget=7).json()
        assert chat["choices"][0]["message"] == {"role": "assistant", "content": "Hi", "refusal": None}
        assert chat["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
        stream = ask("chat/completions", messages=user, stream=True)
        deltas = [
            json.loads(event.data)["choices"][0]["delta"]
            for event in EventStreamDecoder().feed(stream.content)
            if event.data != b"[DONE]"
        ]
        # the first one is there before the thoughts are over
        assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hi"}, {}]
        response = ask("responses", input="hi", thinking_token_budget=8).json()
        assert [item["type"] for item in response["output"]] == ["message"]
        assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
        message = {"model": "tiny", "max_tokens": 50, "messages": user}
        for thought in ({"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}, {"budget_tokens": "9"}):
            assert http.post(f"{url}/v1/messages", json={**message, "thinking": thought}).status_code == 200
        refused = ask("chat/completions", messages=user, include_reasoning="no").json()["error"]
        assert (refused["error_code"], refused["param"]) == ("INVALID_TYPE", "include_reasoning")
        # a bare prompt's answer is one text
        assert ask("completions", prompt="hi").json()["error"]["param"] == "include_reasoning"
    assert [request.thinking_tokens for request in local.requests] == [7, None, 8, 1024, None, None]
