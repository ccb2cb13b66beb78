"""Answers from documents: whole and streamed, with their citations, or an honest "I don't know"."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.errors import Overloaded, UpstreamUnavailable
from apps.core.messages import ChatRequest
from apps.models.event_stream import EventStreamDecoder
from apps.models.scripted import ScriptedModel, Step, saying
from apps.tests.support.rag_serving import LEAVE, TRAVEL, ingested, serving_documents
from apps.tests.support.reading import envelope

ASKED = {"prompt": "How many days of leave are there?", "max_tokens": 20}
UNRELATED = {"prompt": "zzz qqq xxx"}


def script(request: ChatRequest) -> list[Step]:
    text = str(request.messages[-1].content)
    if "overload" in text:
        return [Overloaded("busy", retry_after=3)]
    if "breakdown" in text:
        return [Delta("30", model="writer"), UpstreamUnavailable("gone")]
    return [
        Delta("30 days", model="writer"),
        Delta(" [1].", model="writer"),
        Delta(finish_reason="stop", usage=Usage(90, 4), model="writer"),
    ]


@pytest.fixture(scope="module")
def writer() -> ScriptedModel:
    return ScriptedModel(script, name="writer")


@pytest.fixture(scope="module")
def url(writer: ScriptedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        serving_documents(tmp_path_factory.mktemp("data"), writer) as base,
        httpx2.Client(timeout=90) as http,
    ):
        ingested(http, f"{base}/rag/collections/handbook", LEAVE, TRAVEL)
        yield f"{base}/rag/collections/handbook/generate"


def events(body: bytes) -> list[tuple[str, str]]:
    return [(event.type, event.data.decode()) for event in EventStreamDecoder().feed(body)]


@pytest.mark.long
def test_an_answer_has_the_passages_that_it_was_made_from(url: str, writer: ScriptedModel, http: httpx2.Client) -> None:
    answer = http.post(url, json={**ASKED, "top_k": 1})
    body = answer.json()
    assert body["response"] == "30 days [1]."
    assert answer.headers["x-model"] == "writer"
    [citation] = body["citations"]
    assert set(citation) == {"number", "document", "name", "page", "heading", "span", "score", "quote", "support"}
    assert (citation["number"], citation["name"], citation["heading"]) == (1, "leave.md", ["Leave"])
    start, end = citation["span"]
    assert LEAVE["text"][start:end] == citation["quote"]
    asked = writer.requests[-1]
    assert [message.role for message in asked.messages] == ["system", "user"]
    assert str(asked.messages[1].content).endswith(f"Question: {ASKED['prompt']}")
    assert (asked.max_tokens, asked.model, asked.tools) == (20, None, ())


def test_streamed_citations_come_before_the_first_delta_and_one_event_ends_it(url: str, http: httpx2.Client) -> None:
    answer = http.post(f"{url}?stream=true", json=ASKED)
    assert answer.headers["x-model"] == "writer"
    kinds = events(answer.content)
    assert [kind for kind, _ in kinds] == ["citations", "message", "message", "citations", "done"]
    # sent again at the end, when it is known which sentence supports the answer
    assert [citation["number"] for citation in json.loads(kinds[0][1])] == [1]
    assert "".join(data for kind, data in kinds if kind == "message") == "30 days [1]."
    assert json.loads(kinds[-1][1])["usage"]["prompt_tokens"] == 90


def test_plain_text_is_the_bare_answer(url: str, http: httpx2.Client) -> None:
    answer = http.post(f"{url}?stream=true", json=ASKED, headers={"Accept": "text/plain"})
    assert answer.text == "30 days [1]."


def test_where_nothing_is_relevant_it_says_so_and_asks_no_model(
    url: str, writer: ScriptedModel, http: httpx2.Client
) -> None:
    calls = len(writer.requests)
    answer = http.post(url, json=UNRELATED)
    assert answer.json() == {"response": "I don't know: the documents say nothing about this.", "citations": []}
    assert answer.headers["x-model"] == "rag/handbook"
    kinds = events(http.post(f"{url}?stream=true", json=UNRELATED).content)
    assert kinds[0] == ("citations", "[]")
    assert kinds[-1][0] == "done"
    assert len(writer.requests) == calls


def test_a_filter_leaves_only_its_passages(url: str, http: httpx2.Client) -> None:
    asked = {"prompt": "days of leave, or trains booked by the office", "filter": {"year": 2025}}
    names = [citation["name"] for citation in http.post(url, json=asked).json()["citations"]]
    assert names == ["travel.md"]


@pytest.mark.parametrize("stream", ["", "?stream=true"])
def test_what_fails_before_the_first_delta_has_its_own_status(stream: str, url: str, http: httpx2.Client) -> None:
    answer = http.post(url + stream, json={"prompt": "overload days of leave"})
    assert envelope(answer)["code"] == "OVERLOADED"
    assert answer.headers["retry-after"] == "3"


def test_what_fails_later_ends_the_stream_with_an_error(url: str, http: httpx2.Client) -> None:
    kinds = events(http.post(f"{url}?stream=true", json={"prompt": "breakdown days of leave"}).content)
    assert [kind for kind, _ in kinds] == ["citations", "message", "error"]
    assert json.loads(kinds[-1][1])["error"]["code"] == "INTERNAL_ERROR"


def test_an_unknown_collection_is_not_found(url: str, http: httpx2.Client) -> None:
    assert envelope(http.post(url.replace("handbook", "nothing"), json=ASKED))["code"] == "NOT_FOUND"


def test_a_collection_cannot_write_for_another(url: str, http: httpx2.Client) -> None:
    error = envelope(http.post(url, json={**ASKED, "model": "rag/handbook"}))
    assert (error["code"], error["field"]) == ("INVALID_VALUE", "model")


def test_passages_are_left_out_until_the_answer_fits_the_window(tmp_path: Path, http: httpx2.Client) -> None:
    writer = ScriptedModel(saying("yes"))
    texts = [{"name": f"{i}.txt", "text": f"Leave, part {i}. " + "days of leave " * 60} for i in range(5)]
    with serving_documents(tmp_path, writer, rag_context_tokens=3000) as base:
        ingested(http, f"{base}/rag/collections/long", *texts)
        url = f"{base}/rag/collections/long/generate"
        citations = http.post(url, json={"prompt": "days of leave", "max_tokens": 400}).json()["citations"]
        assert 0 < len(citations) < 5
        sent: Any = writer.requests[-1].messages
        assert sum(len(str(message.content).encode()) for message in sent) + 400 <= 3000
        error = envelope(http.post(url, json={"prompt": "days of leave", "max_tokens": 2900}))
        assert (error["code"], error["field"]) == ("INVALID_VALUE", "max_tokens")
        assert error["details"]["context_length"] == 3000


def test_without_a_library_the_routes_say_so(http: httpx2.Client) -> None:
    from apps.tests.support.serving import serving_models

    with serving_models() as base:
        error = envelope(http.get(f"{base}/rag/collections"))
        assert error["code"] == "MODEL_UNAVAILABLE"
