"""The official Python client against our gateway and against the upstream itself: equal answers, side by side."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream

USER: list[Any] = [{"role": "user", "content": "Say hello"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
PICTURE: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
        ],
    }
]
Ask = Callable[[OpenAI], Any]


@pytest.fixture(scope="module")
def base(mock: MockUpstream) -> Iterator[str]:
    with serving_models(openai_base_url=mock.base_url, retry_attempts=1) as url:
        yield f"{url}/v1"


@pytest.fixture
def ours(base: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=base, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def direct(mock: MockUpstream) -> Iterator[OpenAI]:
    with OpenAI(base_url=mock.base_url, api_key="unused", max_retries=0) as client:
        yield client


def dumped(answer: Any) -> Any:
    """What a client sees, fields that it does not know among them."""
    return answer.model_dump() if hasattr(answer, "model_dump") else [item.model_dump() for item in answer]


ASKED: dict[str, Ask] = {
    "chat": lambda c: c.chat.completions.create(model="m", messages=USER),
    "chat, streamed": lambda c: c.chat.completions.create(model="m", messages=USER, stream=True),
    "usage chunk": lambda c: c.chat.completions.create(
        model="m", messages=USER, stream=True, stream_options={"include_usage": True}
    ),
    "tools": lambda c: c.chat.completions.create(model="tool-call", messages=USER, tools=[TOOL]),
    "tools, streamed": lambda c: c.chat.completions.create(model="tool-call", messages=USER, tools=[TOOL], stream=True),
    "content parts": lambda c: c.chat.completions.create(model="echo", messages=PICTURE),
    "unknown fields": lambda c: c.chat.completions.create(model="future", messages=USER),
    "unknown fields, streamed": lambda c: c.chat.completions.create(model="future", messages=USER, stream=True),
    "completions": lambda c: c.completions.create(model="m", prompt="Once"),
    "completions, streamed": lambda c: c.completions.create(
        model="m", prompt=[1, 2], stream=True, stream_options={"include_usage": True}
    ),
    "responses": lambda c: c.responses.create(model="m", input="hi", store=True, previous_response_id="resp_0"),
    "responses, streamed": lambda c: c.responses.create(model="m", input="hi", stream=True),
    "embeddings": lambda c: c.embeddings.create(model="m", input=["one", "three"]),
    "embeddings in floats": lambda c: c.embeddings.create(model="m", input=[[1, 2]], encoding_format="float"),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED.keys())
@pytest.mark.long
def test_our_answer_is_the_upstreams_answer(ask: Ask, ours: OpenAI, direct: OpenAI) -> None:
    answer = dumped(ask(direct))
    assert answer
    assert dumped(ask(ours)) == answer


def test_unknown_fields_of_an_answer_reach_the_caller(ours: OpenAI) -> None:
    answer = ours.chat.completions.create(model="future", messages=USER)
    assert answer.model_extra == {"x_future": {"a": [1, None]}}
    assert answer.choices[0].message.model_extra == {"x_part": "p"}


def test_the_upstream_gets_the_callers_body_with_every_field(ours: OpenAI, mock: MockUpstream) -> None:
    ours.chat.completions.create(
        model="m",
        messages=PICTURE,
        tools=[TOOL],
        tool_choice="auto",
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        logprobs=True,
        extra_body={"x_vendor": {"deep": [1, {"é": None}]}},
    )
    body = mock.stats()["last_body"]
    assert body["messages"] == PICTURE
    assert body["tools"] == [TOOL]
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert body["logprobs"] is True
    assert body["x_vendor"] == {"deep": [1, {"é": None}]}


def test_the_raw_response_has_the_receipt_in_its_headers(ours: OpenAI) -> None:
    raw = ours.chat.completions.with_raw_response.create(model="m", messages=USER)
    assert raw.headers["x-provider"] == "openai"
    assert raw.headers["x-model"] == "m"
    assert raw.headers["x-attempts"] == "1"
    assert raw.headers["x-prompt-tokens"] == "9"
    assert raw.parse().choices[0].message.content


def test_the_receipt_of_a_streamed_response_stands_before_its_last_event(ours: OpenAI) -> None:
    with ours.responses.with_streaming_response.create(model="m", input="hi", stream=True) as raw:
        lines = list(raw.iter_lines())
    receipt = next(i for i, line in enumerate(lines) if line.startswith(": receipt "))
    assert '"prompt_tokens": 9' in lines[receipt]
    assert lines[receipt + 2] == "event: response.completed"


def test_the_clients_stream_helpers_put_the_pieces_together(ours: OpenAI) -> None:
    with ours.chat.completions.stream(model="tool-call", messages=USER, tools=[TOOL]) as stream:
        call = stream.get_final_completion().choices[0].message.tool_calls
    assert call is not None
    assert (call[0].function.name, call[0].function.arguments) == ("weather", '{"a": 1}')
    with ours.responses.stream(model="m", input="hi") as events:
        assert events.get_final_response().output_text.startswith("the quick brown")


async def test_the_async_client_gets_the_same(base: str, mock: MockUpstream) -> None:
    answers: list[Any] = []
    for url in (base, mock.base_url):
        async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            whole = await client.chat.completions.create(model="m", messages=USER)
            stream = await client.chat.completions.create(
                model="tool-call", messages=USER, tools=[TOOL], stream=True, stream_options={"include_usage": True}
            )
            events = await client.responses.create(model="m", input="hi", stream=True)
            vectors = await client.embeddings.create(model="m", input="one")
            chunks = [chunk.model_dump() async for chunk in stream]
            answers.append([whole.model_dump(), chunks, [e.model_dump() async for e in events], vectors.model_dump()])
    assert answers[0] == answers[1]
