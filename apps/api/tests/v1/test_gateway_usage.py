"""Tokens and cost of every call: also of streams whose callers did not ask, without a trace of it in what they see."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from apps.api.src.v1.execution import event_count
from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.models.scripted import ScriptedModel
from apps.tests.support.reading import receipt_in
from apps.tests.support.routing import ASK, HEALTHY, events, name, provider, routing_file
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream

CHAT = "/v1/chat/completions"
PRICE = {"input": 1, "output": 2}
LOCAL = [Delta("a", model="own"), Delta("b"), Delta(finish_reason="stop", usage=Usage(7, 2, 3))]


@pytest.fixture(scope="module")
def url(mock: MockUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    content = {
        "providers": {
            "main": provider(mock.base_url, prices={"*": PRICE, "dear": {"input": 10, "output": 10}}),
            "silent": provider(mock.base_url, stream_usage=False),
            "here": {"kind": "local"},
        },
        "models": {"unasked": name(HEALTHY, provider="silent")},
        "default_provider": "main",
    }
    folder = tmp_path_factory.mktemp("routing")
    with serving_models(
        local=ScriptedModel(lambda _: LOCAL, name="own"), gateway_config=routing_file(folder, content)
    ) as base:
        yield base


def stream(http: httpx2.Client, url: str, model: str, path: str = CHAT, **more: Any) -> bytes:
    answer = http.post(url + path, json={"model": model, "stream": True, **ASK, **more})
    assert answer.status_code == 200
    return answer.content


def test_a_stream_has_its_tokens_and_cost_and_its_caller_sees_no_more_than_he_asked_for(
    url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    ours = stream(http, url, HEALTHY)
    assert mock.stats()["last_body"]["stream_options"] == {"include_usage": True}
    direct = http.post(f"{mock.base_url}/chat/completions", json={"model": HEALTHY, "stream": True, **ASK})
    assert events(ours) == events(direct.content)
    receipt = receipt_in(ours)
    assert (receipt["prompt_tokens"], receipt["completion_tokens"], receipt["estimated"]) == (9, 6, False)
    assert receipt["cost"] == pytest.approx(21e-6)


def test_a_streams_headers_are_milliseconds_and_its_comment_the_same_in_seconds(url: str, http: httpx2.Client) -> None:
    answer = http.post(url + CHAT, json={"model": HEALTHY, "stream": True, **ASK})
    receipt = receipt_in(answer.content)
    for header, field in (("x-queue-ms", "queued"), ("x-first-token-ms", "first_token")):
        assert float(answer.headers[header]) == pytest.approx(float(str(receipt[field])) * 1000, abs=0.06)
    assert float(answer.headers["x-first-token-ms"]) > 0


@pytest.mark.parametrize("options", [{"include_usage": False}, {"include_usage": None}, {}, None])
def test_a_caller_who_does_not_want_usage_does_not_get_it(options: Any, url: str, http: httpx2.Client) -> None:
    ours = stream(http, url, HEALTHY, stream_options=options)
    assert not [event for event in events(ours) if b"usage" in event]
    assert receipt_in(ours)["completion_tokens"] == 6


def test_the_other_options_of_a_caller_are_kept(url: str, mock: MockUpstream, http: httpx2.Client) -> None:
    stream(http, url, HEALTHY, stream_options={"include_obfuscation": False})
    assert mock.stats()["last_body"]["stream_options"] == {"include_obfuscation": False, "include_usage": True}


@pytest.mark.parametrize("options", ["yes", {"include_usage": "yes"}])
def test_options_that_are_none_are_the_upstreams_to_judge(
    options: Any, url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    http.post(url + CHAT, json={"model": "fault-503", "stream": True, "stream_options": options, **ASK})
    assert mock.stats()["last_body"]["stream_options"] == options


def test_the_wish_does_not_disturb_what_stands_behind_the_last_brace(
    url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    body = (
        b'{"messages": [{"role": "user", "content": "}"}], "stream": true, "model": "gpt-4o-mini", "x": {"y": {}} }  '
    )
    answer = http.post(url + CHAT, content=body, headers={"Content-Type": "application/json"})
    assert receipt_in(answer.content)["completion_tokens"] == 6
    assert mock.stats()["last_body"] == {**json.loads(body), "stream_options": {"include_usage": True}}


def test_an_upstream_that_refuses_the_wish_is_asked_without_it_from_then_on(
    url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    mock.reset()
    for _ in range(3):
        receipt = receipt_in(stream(http, url, "no-options"))
        assert (receipt["estimated"], receipt["attempts"]) == (True, 1)
    assert mock.stats()["requests"] == 4


@pytest.mark.parametrize("model", ["no-usage", "unasked"])
def test_tokens_that_nobody_tells_are_the_prompts_length_and_the_pieces_that_came(
    model: str, url: str, mock: MockUpstream, http: httpx2.Client
) -> None:
    receipt = receipt_in(stream(http, url, model))
    assert receipt["estimated"] is True
    assert 6 <= int(str(receipt["completion_tokens"])) <= 9
    assert int(str(receipt["prompt_tokens"])) > 0
    assert ("stream_options" in mock.stats()["last_body"]) == (model == "no-usage")


def test_legacy_completions_have_their_tokens_too(url: str, http: httpx2.Client) -> None:
    ours = stream(http, url, HEALTHY, "/v1/completions", prompt="hi")
    assert not [event for event in events(ours) if b"usage" in event]
    assert receipt_in(ours)["completion_tokens"] == 6


def test_responses_have_their_tokens_as_the_upstream_tells_them(url: str, http: httpx2.Client) -> None:
    body = stream(http, url, HEALTHY, "/v1/responses", input="hi")
    comment = json.loads(body.partition(b": receipt ")[2].partition(b"\n\n")[0])
    assert (comment["prompt_tokens"], comment["completion_tokens"]) == (9, 6)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_the_local_model_hands_its_tokens_over_and_costs_nothing(path: str, url: str, http: httpx2.Client) -> None:
    answer = http.post(
        url + path,
        json={"model": "own", "stream": True, "prompt": "hi"} | ({} if "chat" not in path else ASK | {"prompt": None}),
    )
    receipt = receipt_in(answer.content)
    assert (receipt["prompt_tokens"], receipt["completion_tokens"], receipt["cached_tokens"]) == (7, 2, 3)
    assert receipt["cost"] == 0


def test_a_models_own_price_goes_before_the_one_for_all_others(url: str, http: httpx2.Client) -> None:
    answer = http.post(url + CHAT, json={"model": "dear", **ASK})
    assert float(answer.headers["X-Cost-USD"]) == pytest.approx(150e-6)


@pytest.mark.parametrize(
    ("block", "events"),
    [
        (b'data: {"a": 1}\n\ndata: {"a": 2}\n\n', 2),
        (b'data: {\ndata: "a": 1\ndata: }\n\n', 1),
        (b'data: {"text": "data: data:"}\n\n', 1),
        (b": keep-alive\n\n: keep-alive\n\n", 0),
        (b'data: {"a": 1}\r\n\r\n', 1),
        (b"data: a\rdata: b\r", 2),
    ],
)
def test_the_pieces_of_an_answer_are_its_events(block: bytes, events: int) -> None:
    assert event_count(block) == events
