"""The mock upstream behaves as its page says: over real sockets, with the openai client and with bare bytes."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from openai import APIConnectionError, APIError, AsyncOpenAI, InternalServerError

from apps.tests.support.waiting import Passed
from eval.mock_answers import behaviour_of
from eval.mock_http import take_request
from eval.mock_upstream import MockUpstream, mock_upstream


@pytest.fixture(scope="module")
def mock() -> Iterator[MockUpstream]:
    with mock_upstream(tokens=6) as running:
        yield running


@pytest.fixture
async def client(mock: MockUpstream) -> AsyncIterator[AsyncOpenAI]:
    mock.reset()
    async with AsyncOpenAI(api_key="k", base_url=mock.base_url, max_retries=0, timeout=2) as opened:
        yield opened


async def whole(client: AsyncOpenAI, model: str, prompt: str = "hi") -> str | None:
    answer = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content


async def streamed(client: AsyncOpenAI, model: str, prompt: str = "hi") -> list[str]:
    texts = []
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], stream=True
    )
    async for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            texts.append(text)
    return texts


async def test_answers_with_as_many_words_as_asked_for_whole_and_streamed(client: AsyncOpenAI) -> None:
    text = await whole(client, "gpt-4o-mini")
    assert text is not None
    assert len(text.split()) == 6
    assert "".join(await streamed(client, "gpt-4o-mini")) == text


async def test_echo_returns_the_prompt_a_character_a_token(client: AsyncOpenAI) -> None:
    prompt = " a\r\n\u2028data: \U0001f600"
    assert await whole(client, "echo", prompt) == prompt
    assert await streamed(client, "echo", prompt) == list(prompt)


async def test_stats_count_the_calls_and_keep_what_was_sent(client: AsyncOpenAI, mock: MockUpstream) -> None:
    await whole(client, "one")
    async with httpx2.AsyncClient(timeout=90) as http:
        over_http = (await http.get(mock.base_url.removesuffix("/v1") + "/stats")).json()
    assert over_http["requests"] == mock.stats()["requests"] == 1
    assert over_http["by_model"] == {"one": 1}
    assert over_http["last_body"]["messages"] == [{"role": "user", "content": "hi"}]
    assert over_http["last_headers"]["authorization"] == "Bearer k"
    mock.reset()
    assert mock.stats()["requests"] == 0


async def test_flaky_fails_as_often_as_its_name_says(client: AsyncOpenAI) -> None:
    for _ in range(2):
        with pytest.raises(InternalServerError):
            await whole(client, "flaky-2")
    assert await whole(client, "flaky-2")


async def test_a_status_fault_has_its_status_and_retry_after(mock: MockUpstream) -> None:
    async with httpx2.AsyncClient(base_url=mock.base_url, timeout=90) as http:
        for model, status, wait in (("fault-503-1", 503, "1"), ("fault-429", 429, "2"), ("fault-401", 401, None)):
            answer = await http.post("/chat/completions", json={"model": model, "messages": []})
            assert (answer.status_code, answer.headers.get("retry-after")) == (status, wait)


@pytest.mark.parametrize("model", ["fault-rst", "fault-cut"])
@pytest.mark.parametrize("call", [whole, streamed])
async def test_resets_break_the_connection(client: AsyncOpenAI, model: str, call: object) -> None:
    with pytest.raises(APIConnectionError):
        await (whole if call is whole else streamed)(client, model)


async def test_an_error_event_comes_after_half_of_the_tokens(client: AsyncOpenAI) -> None:
    with pytest.raises(APIError, match="mock mid-stream error"):
        await streamed(client, "fault-error")


async def test_nofinish_ends_in_good_order_without_a_finish_reason(client: AsyncOpenAI) -> None:
    assert len(await streamed(client, "fault-nofinish")) == 3


@pytest.mark.parametrize("model", ["fault-hang", "fault-stall"])
async def test_a_silent_upstream_is_counted_as_aborted_once_the_client_leaves(
    client: AsyncOpenAI, mock: MockUpstream, model: str
) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(streamed(client, model), 0.3)
    async with asyncio.timeout(90):
        while mock.stats()["open"]:  # noqa: ASYNC110 - the mock counts in another thread
            await asyncio.sleep(0.01)
    assert (mock.stats()["open"], mock.stats()["aborted"]) == (0, 1)


async def test_slow_waits_before_the_first_byte(client: AsyncOpenAI) -> None:
    waited = Passed(0.15)
    await whole(client, "slow-150")
    assert waited


async def test_tool_call_names_the_first_tool_offered(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="tool-call",
        messages=[{"role": "user", "content": "hi"}],
        tools=[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
        stream=True,
    )
    pieces = [call async for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert pieces[0].function is not None
    assert pieces[0].function.name == "add"
    assert json.loads("".join((p.function.arguments or "") for p in pieces if p.function)) == {"a": 1}


def test_a_name_that_asks_for_nothing_is_answered_normally() -> None:
    for name in ("gpt-4o-mini", "fault-", "fault-nonsense", "slow-", "hang"):
        assert behaviour_of(name).kind == "answer", name


def test_a_request_is_taken_only_when_it_is_whole() -> None:
    raw = b"POST /v1/x?q=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
    buffer = bytearray()
    for byte in raw[:-1]:
        buffer.append(byte)
        assert take_request(buffer) is None
    buffer += raw[-1:] + b"GET"
    request = take_request(buffer)
    assert request is not None
    assert (request.method, request.path, request.body, bytes(buffer)) == ("POST", "/v1/x", b"abcd", b"GET")


def test_the_command_serves_on_a_free_port_and_says_which() -> None:
    command = [sys.executable, "-m", "eval.mock_upstream", "--port", "0", "--tokens", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split()[-1]
            assert httpx2.get(f"{url}/models", timeout=90).json()["data"][0]["id"] == "gpt-4o-mini"
        finally:
            process.terminate()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0])), 1)
