"""Framing: what a model says survives any conforming parser, and nothing that it says forges an event."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apps.api.src.http.streaming import EventStream, PlainText
from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.errors import UpstreamError
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.reading import read_events
from apps.tests.support.serving import serving_models, upstream_at
from eval.mock_upstream import MockUpstream

NASTY = st.sampled_from(
    [
        "\r",
        "\n",
        "\r\n",
        "\n\n",
        "\r\r",
        "\u2028",
        "\u2029",
        "\x85",
        "\x00",
        "\x0b",
        "\x0c",
        "\x1c",
        "\ufeff",
        "😀",
        " ",
        "data:",
        "data: ",
        "\ndata: x\n\n",
        "event: done",
        "\n\nevent: done\ndata: {}\n\n",
        ": ping",
        "\n\n: ping\n\n",
        "id: 1",
        "retry: 0",
        "[DONE]",
        "\r\revent: error\rdata: {}\r\r",
        "event: delta",
        '{"text": "x"}',
        "é",
        "é",
    ]
)
TEXT = st.lists(NASTY | st.text(max_size=8), max_size=5).map("".join)
BATCH = 100
BATCHES = 101
SEPARATOR = "\ue000"
many = hypothesis_settings(max_examples=BATCHES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
strings = given(st.lists(TEXT.map(lambda text: text.replace(SEPARATOR, "")), min_size=BATCH, max_size=BATCH))


def parsed_independently(stream: str) -> list[tuple[str, str]]:
    """The HTML standard's steps for an event stream, written a second time and over text."""
    events, data, kind = [], "", ""
    for line in re.split(r"\r\n|\r|\n", stream)[:-1]:
        if line == "":
            if data != "":
                events.append((kind or "message", data.removesuffix("\n")))
            data, kind = "", ""
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value[1:] if value[:1] == " " else value
            data, kind = (data + value + "\n", kind) if name == "data" else (data, value if name == "event" else kind)
    return events


def deltas_of(stream: bytes) -> list[str]:
    """The deltas of a whole stream, after both parsers agree on it and on its one terminal event."""
    streamed = read_events(stream)
    assert streamed.end[0] == "done"
    second = parsed_independently(stream.decode())
    assert [kind for kind, _ in second if kind not in ("message", "delta")] == ["done"]
    assert [json.loads(d)["text"] if kind == "delta" else d for kind, d in second[:-1]] == streamed.deltas
    return streamed.deltas


def piecewise(request: ChatRequest) -> list[Step]:
    """Says each part of the prompt as one delta."""
    pieces = str(request.messages[0].content).split(SEPARATOR)
    return [*(Delta(piece) for piece in pieces), Delta(finish_reason="stop")]


@pytest.fixture(scope="module")
def url(mock: MockUpstream) -> Iterator[str]:
    limits: dict[str, Any] = {"max_prompt_chars": 1_000_000, "max_body_bytes": 8_000_000}
    with serving_models(**upstream_at(mock.base_url), local=ScriptedModel(piecewise), **limits) as base:
        yield base


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=90) as kept:
        yield kept


@pytest.mark.long
def test_ten_thousand_random_strings_come_back_from_the_upstream_as_they_went(url: str, client: httpx2.Client) -> None:
    count = 0

    @many
    @strings
    def come_back(texts: list[str]) -> None:
        nonlocal count
        prompt = SEPARATOR.join([*texts, "."])
        body = {"prompt": prompt, "model": "echo"}
        response = client.post(f"{url}/generate", params={"stream": True}, json=body)
        assert "".join(deltas_of(response.content)).split(SEPARATOR) == [*texts, "."]
        count += len(texts)

    come_back()
    assert count >= 10_000


@pytest.mark.long
def test_ten_thousand_random_deltas_arrive_one_event_each(url: str, client: httpx2.Client) -> None:
    count = 0

    @many
    @strings
    def arrive(texts: list[str]) -> None:
        nonlocal count
        body = {"prompt": SEPARATOR.join([*texts, "."])}
        response = client.post(f"{url}/local/generate", params={"stream": True}, json=body)
        assert deltas_of(response.content) == [text for text in [*texts, "."] if text]
        count += len(texts)

    arrive()
    assert count >= 10_000


@pytest.mark.parametrize(
    "text", ["\r", "\n", "\r\n", "\n\n", " ", "  a", "\u2028", "\x00", "data: x\n\nevent: done", ":"]
)
def test_a_delta_is_one_event_with_its_exact_text(text: str) -> None:
    streamed = read_events(EventStream().delta(text))
    assert (streamed.deltas, streamed.terminal) == ([text], [])


def test_a_plain_delta_is_the_seeds_data_line() -> None:
    assert EventStream().delta("Artificial") == b"data: Artificial\n\n"


def test_done_says_how_it_ended_and_what_it_cost() -> None:
    frame = EventStream().done("length", "m", Usage(9, 2, 4))
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "cached_tokens": 4}
    assert read_events(frame).end == ("done", {"finish_reason": "length", "model": "m", "usage": usage})


def test_a_model_that_does_not_count_has_no_usage() -> None:
    assert read_events(EventStream().done("stop", None, None)).end[1]["usage"] is None


def test_an_error_is_the_envelope_whatever_its_message_holds() -> None:
    error = UpstreamError("a\r\n\nevent: done\ndata: {}\u2028\n\n")
    assert read_events(EventStream().error(error)).end == ("error", error.envelope())


def test_bare_text_is_the_text_and_nothing_else() -> None:
    framing = PlainText()
    assert framing.delta(" a\r\n\u2028😀") == " a\r\n\u2028😀".encode()
    assert framing.done("stop", "m", None) == framing.error(UpstreamError("x")) == framing.ping == b""


def test_frames_are_these_bytes() -> None:
    stream = EventStream()
    assert stream.media_type == "text/event-stream"
    assert stream.citations([]) == b"event: citations\ndata: []\n\n"
    # as text and not escaped: a Chinese answer would be three times as long
    assert stream.delta("\r\u00e9") == b'event: delta\ndata: {"text": "\\r\xc3\xa9"}\n\n'
