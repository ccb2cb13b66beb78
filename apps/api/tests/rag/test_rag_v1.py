"""A collection as a model of OpenAI's API: the official client asks it, and leaves the citations where they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from apps.core.callers import Caller
from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.callers import CallerByHeader, as_caller
from apps.tests.support.rag_serving import LEAVE, TRAVEL, ingested, rag_app
from apps.tests.support.serving import serving

QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How many days of leave are there?"},
]
CALLERS = {
    "own": Caller("one"),
    "other": Caller("two"),
    "narrow": Caller("one", models=("rag/handbook", "writer")),
    "admin": Caller("boss", admin=True),
    "reserved": Caller("shared"),
}


def script(request: ChatRequest) -> list[Step]:
    return [
        Delta("30 days", model="writer"),
        Delta(" [1].", model="writer"),
        Delta(finish_reason="stop", usage=Usage(90, 4), model="writer"),
    ]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    app, _ = rag_app(tmp_path_factory.mktemp("data"), ScriptedModel(script, name="writer"))
    with serving(CallerByHeader(app, CALLERS)) as base:  # type: ignore[arg-type]
        with httpx2.Client(timeout=90, headers=as_caller("own")) as http:
            ingested(http, f"{base}/rag/collections/handbook", LEAVE, TRAVEL)
            ingested(http, f"{base}/rag/collections/wages", TRAVEL)
        with httpx2.Client(timeout=90, headers=as_caller("admin")) as http:
            ingested(http, f"{base}/rag/shared/handbook", TRAVEL)
        yield base


def client(url: str, name: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, default_headers=as_caller(name))


@pytest.fixture
def ours(url: str) -> Iterator[OpenAI]:
    with client(url, "own") as opened:
        yield opened


def test_a_whole_answer_has_its_citations_beside_openais_fields(ours: OpenAI) -> None:
    raw = ours.chat.completions.with_raw_response.create(model="rag/handbook", messages=QUESTION)
    assert raw.headers["x-model"] == "writer"
    assert raw.headers["x-provider"] == "rag"
    answer = raw.parse()
    assert answer.model == "writer"
    assert answer.choices[0].message.content == "30 days [1]."
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (90, 4)
    extra: Any = answer.choices[0].message.model_extra
    assert [citation["name"] for citation in extra["citations"]] == ["leave.md"]


def test_a_streamed_answer_has_them_in_its_first_chunk(ours: OpenAI) -> None:
    chunks = list(
        ours.chat.completions.create(
            model="rag/handbook", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    first: Any = chunks[0].choices[0].delta.model_extra
    assert [citation["name"] for citation in first["citations"]] == ["leave.md"]
    assert not any("citations" in (chunk.choices[0].delta.model_extra or {}) for chunk in chunks[1:-1])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "30 days [1]."
    assert chunks[-1].usage is not None
    assert {chunk.model for chunk in chunks} == {"writer"}


def test_the_clients_own_collector_of_streams_takes_the_field_as_it_is(ours: OpenAI) -> None:
    with ours.chat.completions.stream(model="rag/handbook", messages=QUESTION) as stream:
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == "30 days [1]."


def test_several_choices_were_several_calls(ours: OpenAI) -> None:
    answer = ours.chat.completions.create(model="rag/handbook", messages=QUESTION, n=2)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (180, 8)


def test_the_callers_own_instructions_stand_behind_ours_in_one_system_message(tmp_path: Path) -> None:
    writer = ScriptedModel(script, name="writer")
    app, _ = rag_app(tmp_path, writer)
    with serving(app) as base, httpx2.Client(timeout=90) as http:
        ingested(http, f"{base}/rag/collections/handbook", LEAVE)
        body = {"model": "rag/handbook", "messages": QUESTION}
        assert http.post(f"{base}/v1/chat/completions", json=body).status_code == 200
    system, user = writer.requests[-1].messages
    assert (system.role, user.role) == ("system", "user")
    assert str(system.content).endswith("\n\nBe brief.")


def test_tools_are_refused_so_that_no_document_can_call_one(ours: OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "delete", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="tools"):
        ours.chat.completions.create(model="rag/handbook", messages=QUESTION, tools=[tool])


def test_only_chat_completions_are_served(ours: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ours.responses.create(model="rag/handbook", input="days of leave")
    with pytest.raises(openai.NotFoundError):
        ours.embeddings.create(model="rag/handbook", input="days of leave")


def test_callers_see_their_own_collections_and_the_shared_ones_among_the_models(url: str) -> None:
    seen = {}
    for name in CALLERS:
        with client(url, name) as ours:
            seen[name] = {model.id for model in ours.models.list() if model.id.startswith("rag/")}
    assert seen["own"] == {"rag/handbook", "rag/wages", "rag/shared/handbook"}
    assert seen["other"] == seen["admin"] == seen["reserved"] == {"rag/shared/handbook"}
    assert seen["narrow"] == {"rag/handbook"}


def test_no_name_has_its_prefix_twice(url: str, http: httpx2.Client) -> None:
    """The target is the provider and the model; a provider `rag` and a model `rag/handbook` are one name."""
    models = http.get(f"{url}/v1/models", headers=as_caller("own")).json()["data"]
    listed = {model["id"]: [target["target"] for target in model["targets"]] for model in models}
    assert listed["rag/handbook"] == ["rag/handbook"]
    assert listed["rag/shared/handbook"] == ["rag/shared/handbook"]
    route = http.get(f"{url}/v1/route", params={"model": "rag/handbook"}, headers=as_caller("own")).json()
    assert [entry["target"] for entry in route["order"]] == ["rag/handbook"]
    assert route["strategy"] == "answered in this process, as every name that begins with rag/"


def test_one_model_is_looked_up_like_the_others(url: str) -> None:
    with client(url, "own") as ours, client(url, "other") as other:
        assert ours.models.retrieve("rag/handbook").id == "rag/handbook"
        with pytest.raises(openai.NotFoundError) as theirs:
            other.models.retrieve("rag/handbook")
        with pytest.raises(openai.NotFoundError) as missing:
            other.models.retrieve("rag/missings")
    assert str(theirs.value).replace("handbook", "missings", 1) == str(missing.value)


def test_a_key_for_one_collection_reaches_no_other(url: str, http: httpx2.Client) -> None:
    headers = as_caller("narrow")
    with client(url, "narrow") as narrow:
        assert narrow.chat.completions.create(model="rag/handbook", messages=QUESTION).choices
        with pytest.raises(openai.PermissionDeniedError):
            narrow.chat.completions.create(model="rag/wages", messages=QUESTION)
    ask = {"query": "trains"}
    assert http.post(f"{url}/rag/collections/wages/query", json=ask, headers=headers).status_code == 403
    assert http.post(f"{url}/rag/collections/handbook/query", json=ask, headers=headers).status_code == 200
    generate = {"prompt": "days of leave", "model": "gpt-4o-mini"}
    assert http.post(f"{url}/rag/collections/handbook/generate", json=generate, headers=headers).status_code == 403


def test_a_shared_collection_is_read_by_all_and_changed_by_an_administrator(url: str, http: httpx2.Client) -> None:
    shared = f"{url}/rag/shared/handbook"
    for name in ("own", "other", "admin"):
        found = http.post(f"{shared}/query", json={"query": "trains"}, headers=as_caller(name)).json()
        assert [passage["name"] for passage in found["passages"]] == ["travel.md"]
    for method, path in (("POST", "/documents"), ("DELETE", ""), ("DELETE", f"/documents/{'0' * 64}")):
        body = LEAVE if method == "POST" else None
        answer = http.request(method, shared + path, json=body, headers=as_caller("other"))
        assert answer.status_code == 403, (method, path)
    with client(url, "other") as other:
        written = other.chat.completions.create(
            model="rag/shared/handbook", messages=[{"role": "user", "content": "Trains are booked by whom?"}]
        )
    assert written.choices[0].message.content == "30 days [1]."


def test_no_tenants_name_makes_its_own_collections_everybodys(url: str, http: httpx2.Client) -> None:
    headers = as_caller("reserved")
    assert http.get(f"{url}/rag/collections/handbook", headers=headers).status_code == 404
    assert http.post(f"{url}/rag/collections/mine/documents", json=LEAVE, headers=headers).status_code == 404
