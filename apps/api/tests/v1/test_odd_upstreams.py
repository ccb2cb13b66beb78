"""Upstreams as they really are: what they send arrives whole, on every route that asks them."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from apps.tests.support.odd_streams import tool
from apps.tests.support.odd_upstream import (
    ALIVE,
    DONE,
    HELLO,
    ROLE,
    STOP,
    TEXT,
    USAGE,
    OddUpstream,
    Reply,
    answered,
    chunk,
    chunked,
    odd_upstream,
    streamed,
    whole,
)
from apps.tests.support.reading import read_events
from apps.tests.support.routing import events
from apps.tests.support.serving import serving_models

PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALLED = chunk(finish="tool_calls")
SILENCE = 2.5
# more than the silence that is allowed, in steps that are shorter
SLOW: list[bytes | float] = [step for _ in range(6) for step in (ALIVE, 0.5)]


def head(kind: str | None) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + (f"Content-Type: {kind}\r\n".encode() if kind else b"")


def calling(*deltas: list[dict[str, Any]], finish: bytes = CALLED) -> Reply:
    first, *rest = [chunk({"tool_calls": pieces}) for pieces in deltas]
    return chunked(ROLE, first, *rest, finish, USAGE, DONE)


HELLOS: dict[str, Reply] = {
    "no-done": chunked(HELLO, USAGE),
    "no-done-close": streamed(HELLO, USAGE),
    "done-without-newline": chunked(HELLO, USAGE, b"data: [DONE]"),
    "done-with-one-newline": chunked(HELLO, USAGE, b"data: [DONE]\n"),
    "last-event-without-newline": streamed(ROLE, *TEXT, STOP.rstrip()),
    "upper-case-type": streamed(HELLO, DONE, head=head("Text/Event-Stream; Charset=UTF-8")),
    "no-type": streamed(HELLO, DONE, head=head(None)),
    "plain-type": streamed(HELLO, DONE, head=head("text/plain")),
    "json-not-events": answered(whole()),
    "json-upper-case": answered(whole(), kind="Application/JSON"),
    "json-without-type": answered(whole(), kind=None),
    "crlf": chunked((HELLO + DONE).replace(b"\n", b"\r\n")),
    "cr": chunked((HELLO + DONE).replace(b"\n", b"\r")),
    "byte-order-mark": chunked(b"\xef\xbb\xbf" + HELLO, DONE),
    "empty-events": chunked(b"data:\n\ndata: \n\n", HELLO, b"data:\n\n", DONE),
    "slow-start": streamed(*SLOW, HELLO, USAGE, DONE),
    "role-then-slow": streamed(ROLE, *SLOW, *TEXT, STOP, USAGE, DONE),
    "slow-in-the-middle": streamed(ROLE, TEXT[0], *SLOW, TEXT[1], STOP, USAGE, DONE),
    "thinking-parts": chunked(
        chunk({"role": "assistant", "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        chunk({"content": [{"type": "text", "text": "Hel"}]}),
        chunk({"content": "lo there"}),
        STOP,
        DONE,
    ),
    "reasoning-content": chunked(ROLE, chunk({"reasoning_content": "hm"}), *TEXT, STOP, DONE),
}
TWO = [("weather", PARIS), ("weather", ROME)]
CALLS: dict[str, tuple[Reply, list[tuple[str, str]]]] = {
    "index-0-for-all": (calling([tool(0, "a", "weather", PARIS)], [tool(0, "b", "weather", ROME)]), TWO),
    "index-0-in-one-delta": (calling([tool(0, "a", "weather", PARIS), tool(0, "b", "weather", ROME)]), TWO),
    "no-index": (calling([tool("none", "a", "weather", PARIS)], [tool("none", "b", "weather", ROME)]), TWO),
    "null-index": (calling([tool(None, "a", "weather", PARIS), tool(None, "b", "weather", ROME)]), TWO),
    "late-name": (
        calling([tool(0, "a", None, None)], [tool(0, None, "weather", None)], [tool(0, None, None, PARIS)]),
        TWO[:1],
    ),
    "late-id": (calling([tool(0, None, "weather", "")], [tool(0, "a", None, PARIS)]), TWO[:1]),
    "name-again": (
        calling(
            [tool(0, "a", "weather", "")], [tool(0, "a", "weather", PARIS[:4])], [tool(0, "a", "weather", PARIS[4:])]
        ),
        TWO[:1],
    ),
    "null-arguments": (
        calling([{**tool(0, "a", "now", None), "function": {"name": "now", "arguments": None}}]),
        [("now", "{}")],
    ),
    "empty-arguments": (calling([tool(0, "a", "now", "")]), [("now", "{}")]),
    "object-arguments": (calling([tool(0, "a", "weather", json.loads(PARIS))]), TWO[:1]),
    "finish-stop": (calling([tool(0, "a", "weather", PARIS)], finish=STOP), TWO[:1]),
    "openais-own": (
        calling(
            [tool(0, "a", "weather", "")],
            [tool(0, None, None, PARIS)],
            [tool(1, "b", "weather", "")],
            [tool(1, None, None, ROME)],
        ),
        TWO,
    ),
}
WHOLES: dict[str, Reply] = {
    "whole-thinking-parts": answered(
        whole(
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "Hello there"},
                ],
            }
        )
    ),
    "whole-no-type": answered(whole(), kind=None),
    "whole-upper-case": answered(whole(), kind="Application/JSON; Charset=UTF-8"),
    "whole-byte-order-mark": answered(b"\xef\xbb\xbf" + whole()),
}
WHOLE_CALL = answered(
    whole(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"type": "function", "function": {"name": "weather", "arguments": json.loads(PARIS)}},
                {"id": "b", "type": "function", "function": {"name": "now", "arguments": None}},
            ],
        }
    )
)
RETRY_AFTER = [
    "0.5",
    "-5",
    "soon",
    "1, 1",
    "",
    "1e400",
    "1e300",
    "Wed, 21 Oct 2026 07:28:00 +9999",
    "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
    "Wed, 21 Oct 99999 07:28:00 GMT",
    "Thu Jan  1 00:00:00 1970",
]


@pytest.fixture(scope="module")
def odd() -> Iterator[OddUpstream]:
    streams = {**HELLOS, **{name: reply for name, (reply, _) in CALLS.items()}}
    limits = {
        f"wait-{i}": answered(b"{}", f"Retry-After: {value}", status="429 Too Many Requests")
        for i, value in enumerate(RETRY_AFTER)
    }
    silent: dict[str, Reply] = {
        "dead": [30.0],
        "silent-in-the-middle": streamed(ROLE, TEXT[0], 30.0),
        "never-a-token": streamed(*SLOW * 10),
    }
    cut: dict[str, Reply] = {
        "cut": streamed(ROLE, *TEXT),
        "html": answered(b"<html>", kind="text/html"),
        "garbage": streamed(b"garbage", head=head(None)),
    }
    usage: dict[str, Reply] = {
        "no-usage": answered(whole(usage=False)),
        "null-usage": answered(whole(usage={"prompt_tokens": 7.0, "completion_tokens": None, "total_tokens": "9"})),
    }
    with odd_upstream(
        {**streams, **silent, **cut, **limits}, {**WHOLES, **usage, **limits, "whole-calls": WHOLE_CALL}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def url(odd: OddUpstream) -> Iterator[str]:
    with serving_models(
        openai_base_url=odd.base_url,
        read_timeout=SILENCE,
        first_token_timeout=8,
        retry_attempts=1,
        auth="off",
        openai_price="1/1",
    ) as running:
        yield running


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


def chunks(response: httpx2.Response) -> list[dict[str, Any]]:
    """The chunks of a stream that must have ended as it should."""
    assert response.status_code == 200, response.text
    datas = events(response.content)
    assert datas[-1] == b"[DONE]", response.text
    return [json.loads(data) for data in datas[:-1] if data]


@pytest.mark.parametrize("name", HELLOS)
@pytest.mark.long
def test_a_stream_arrives_whole_by_chat(name: str, url: str, http: httpx2.Client) -> None:
    for more in ({}, {"stream_options": {"include_usage": True}}):
        got = chunks(http.post(f"{url}/v1/chat/completions", json=body(name, stream=True, **more)))
        choices = [chunk["choices"][0] for chunk in got if chunk["choices"]]
        assert "".join(choice["delta"].get("content") or "" for choice in choices) == "Hello there"
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]


@pytest.mark.parametrize("name", HELLOS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.long
def test_a_stream_arrives_whole_by_generate(name: str, stream: bool, url: str, http: httpx2.Client) -> None:
    response = http.post(f"{url}/generate", params={"stream": stream}, json={"prompt": "hi", "model": name})
    assert response.status_code == 200, response.text
    if not stream:
        assert response.json() == {"response": "Hello there"}
        return
    streamed = read_events(response.content)
    assert (streamed.text, streamed.end[0], streamed.end[1]["finish_reason"]) == ("Hello there", "done", "stop")


@pytest.mark.parametrize("name", HELLOS)
@pytest.mark.long
def test_a_stream_arrives_whole_by_responses(name: str, url: str, http: httpx2.Client) -> None:
    response = http.post(f"{url}/v1/responses", json={"model": name, "input": "hi", "stream": True})
    assert response.status_code == 200, response.text
    last = json.loads(events(response.content)[-1])
    assert last["type"] == "response.completed"
    said = [
        part["text"] for item in last["response"]["output"] if item["type"] == "message" for part in item["content"]
    ]
    assert said == ["Hello there"]


def test_healthy_upstreams_of_these_manners_open_no_breaker(url: str, http: httpx2.Client) -> None:
    for _ in range(12):
        chunks(http.post(f"{url}/v1/chat/completions", json=body("no-done", stream=True)))
    route = http.get(f"{url}/v1/route", params={"model": "no-done"}).json()
    assert [target["breaker"] for target in route["order"]] == ["closed"]


@pytest.mark.parametrize("name", CALLS)
def test_each_call_of_a_tool_comes_out_whole_by_chat(name: str, url: str) -> None:
    """As openai's client puts the pieces together, which goes by the index alone."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        asking = client.chat.completions.stream(
            model=name,
            messages=[{"role": "user", "content": "hi"}],
            tools=[TOOL],  # type: ignore[list-item]
        )
        with asking as stream:
            message = stream.get_final_completion().choices[0].message
    calls = message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls] == CALLS[name][1]
    assert len({call.id for call in calls}) == len(calls)
    assert all(call.id for call in calls)


@pytest.mark.parametrize("name", CALLS)
def test_each_call_of_a_tool_comes_out_whole_by_responses(name: str, url: str, http: httpx2.Client) -> None:
    response = http.post(f"{url}/v1/responses", json={"model": name, "input": "hi", "stream": True})
    last = json.loads(events(response.content)[-1])
    assert last["type"] == "response.completed", response.text
    calls = [item for item in last["response"]["output"] if item["type"] == "function_call"]
    assert [(call["name"], call["arguments"]) for call in calls] == CALLS[name][1]


def test_calls_of_a_whole_answer_have_ids_and_arguments_of_text(url: str, http: httpx2.Client) -> None:
    answer = http.post(f"{url}/v1/chat/completions", json=body("whole-calls")).json()
    first, second = answer["choices"][0]["message"]["tool_calls"]
    assert (first["function"], second["function"]) == (
        {"name": "weather", "arguments": PARIS},
        {"name": "now", "arguments": "{}"},
    )
    assert first["id"]
    assert second["id"] == "b"
    assert "index" not in first


@pytest.mark.parametrize("name", WHOLES)
def test_a_whole_answer_is_read_for_what_it_is(name: str, url: str, http: httpx2.Client) -> None:
    response = http.post(f"{url}/v1/chat/completions", json=body(name))
    assert response.status_code == 200, response.text
    assert "json" in response.headers["content-type"].lower()
    message = json.loads(response.content)["choices"][0]["message"]
    assert message["content"] == "Hello there"
    if name == "whole-thinking-parts":
        assert message["reasoning_content"] == "hm"


@pytest.mark.parametrize("name", ["no-usage", "null-usage"])
def test_a_usage_that_nobody_told_is_estimated_and_costs(name: str, url: str, http: httpx2.Client) -> None:
    response = http.post(f"{url}/v1/chat/completions", json=body(name))
    assert response.status_code == 200
    assert int(response.headers["x-prompt-tokens"]) > 0
    assert int(response.headers["x-completion-tokens"]) == len("Hello there") // 4
    assert float(response.headers["x-cost-usd"]) > 0


@pytest.mark.parametrize("index", range(len(RETRY_AFTER)), ids=RETRY_AFTER)
def test_a_retry_after_of_any_kind_is_a_429_with_a_number(index: int, url: str, http: httpx2.Client) -> None:
    for path, more in (
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"stream": True}),
        ("/generate", {"prompt": "hi"}),
    ):
        response = http.post(url + path, json=body(f"wait-{index}", **more))
        assert response.status_code == 429, response.text
        assert 0 <= int(response.headers["retry-after"]) <= 86_400


@pytest.mark.parametrize(("name", "status"), [("dead", 504), ("never-a-token", 504), ("html", 502), ("garbage", 502)])
@pytest.mark.long
def test_what_never_begins_is_an_error(name: str, status: int, url: str, http: httpx2.Client) -> None:
    for path, more in (("/v1/chat/completions", {"stream": True}), ("/generate", {"prompt": "hi"})):
        response = http.post(url + path, json=body(name, **more))
        assert (response.status_code, response.json()["error"]["status"]) == (status, status)


@pytest.mark.parametrize("name", ["cut", "silent-in-the-middle"])
def test_what_breaks_off_is_never_a_success(name: str, url: str, http: httpx2.Client) -> None:
    response = http.post(f"{url}/v1/chat/completions", json=body(name, stream=True))
    datas = events(response.content)
    assert b"[DONE]" not in datas
    assert "error" in json.loads(datas[-1])
    response = http.post(f"{url}/generate?stream=true", json={"prompt": "hi", "model": name})
    assert read_events(response.content).end[0] == "error"
