"""The response cache on /generate and /local/generate, whole, streamed and as bare text; and by meaning."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.ports import Readiness
from apps.models.scripted import ScriptedModel
from apps.tests.support.caching import CHAT, Cached, caching
from apps.tests.support.reading import read_events
from apps.tests.support.serving import serving_models
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

STEPS = [Delta("one", model="m"), Delta(" two\n"), Delta("\rthree"), Delta(finish_reason="stop", usage=Usage(3, 2, 1))]


@pytest.fixture(scope="module")
def model() -> ScriptedModel:
    return ScriptedModel(lambda request: STEPS, name="m")


@pytest.fixture(scope="module")
def shared(model: ScriptedModel) -> Iterator[Cached]:
    with caching(local=model, cloud=model) as running:
        yield running


@pytest.fixture
def cached(shared: Cached, model: ScriptedModel) -> Cached:
    shared.renew()
    model.requests.clear()
    return shared


@pytest.mark.parametrize("route", ["/generate", "/local/generate"])
@pytest.mark.parametrize("query", ["", "?stream=true"])
@pytest.mark.parametrize("accept", ["*/*", "text/plain"])
def test_the_second_answer_comes_from_the_cache_in_the_same_bytes(
    route: str, query: str, accept: str, cached: Cached, model: ScriptedModel
) -> None:
    first, second = (cached.ask(route + query, {"Accept": accept}, prompt="hi") for _ in range(2))
    assert (first.content, len(model.requests)) == (second.content, 1)
    assert [first.headers["X-Cache"], second.headers["X-Cache"]] == ["miss", "hit"]
    assert (int(second.headers["Age"]) >= 0, second.headers["X-Model"]) == (True, "m")
    assert until(lambda: cached.uses() == ["miss", "hit"])


def test_a_stream_is_answered_from_a_whole_answer_and_back(cached: Cached, model: ScriptedModel) -> None:
    whole = cached.ask("/local/generate", prompt="hi")
    stream = cached.ask("/local/generate?stream=true", prompt="hi")
    assert len(model.requests) == 1
    assert whole.json()["response"] == "".join(read_events(stream.content).deltas)
    assert read_events(stream.content).deltas == ["one", " two\n", "\rthree"]


def test_the_two_routes_do_not_answer_for_each_other(cached: Cached, model: ScriptedModel) -> None:
    assert [cached.ask(route, prompt="hi").headers["X-Cache"] for route in ("/generate", "/local/generate")] == [
        "miss",
        "miss",
    ]


def test_the_routes_own_defaults_count(model: ScriptedModel) -> None:
    with caching(local=model, cloud=model, default_temperature=0.7) as cached:
        assert [cached.ask("/generate", prompt="hi").headers["X-Cache"] for _ in range(2)] == ["miss", "miss"]
        zero = [cached.ask("/generate", prompt="hi", temperature=0) for _ in range(2)]
        assert [answer.headers["X-Cache"] for answer in zero] == ["miss", "hit"]
        local = [cached.ask("/local/generate", prompt="hi", temperature=t) for t in (0, 0.0)]
        assert [answer.headers["X-Cache"] for answer in local] == ["miss", "hit"]


def test_wishes_are_heard_and_a_wrong_one_is_refused(cached: Cached, model: ScriptedModel) -> None:
    ask: Any = lambda headers: cached.ask("/generate", headers, prompt="hi", temperature=1)  # noqa: E731
    assert [ask({"X-Cache-TTL": "9"}).headers["X-Cache"] for _ in range(2)] == ["miss", "hit"]
    assert ask({"X-Cache-TTL": "9", "Cache-Control": "no-cache"}).headers["X-Cache"] == "miss"
    assert ask({"X-Cache-TTL": "9", "Cache-Control": "no-store"}).headers["X-Cache"] == "miss"
    refused = ask({"X-Cache-TTL": "never"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "X-Cache-TTL")


def test_without_a_cache_the_routes_say_nothing_of_one() -> None:
    with serving_models() as url:
        answer = httpx2.post(
            f"{url}/local/generate", json={"prompt": "hi"}, headers={"X-Cache-TTL": "never"}, timeout=90
        )
        assert answer.status_code == 200
        assert "X-Cache" not in answer.headers


def test_the_default_upstream_is_cached_by_its_address_and_model(mock: MockUpstream) -> None:
    mock.reset()
    with caching(openai_base_url=mock.base_url) as cached:
        for _ in range(2):
            assert cached.ask("/generate", prompt="hi", temperature=0).status_code == 200
        cached.ask("/generate", prompt="hi", temperature=0, model="other")
        assert mock.stats()["requests"] == 2


def test_the_disk_remembers_after_a_restart(tmp_path: Path, model: ScriptedModel) -> None:
    storage = f"disk://{tmp_path}/answers"
    model.requests.clear()
    answers = []
    for _ in range(2):
        with caching(local=model, cache_storage=storage) as cached:
            answers.append(cached.ask("/local/generate?stream=true", prompt="hi"))
    assert [answer.headers["X-Cache"] for answer in answers] == ["miss", "hit"]
    assert (answers[0].content, len(model.requests)) == (answers[1].content, 1)


class Words:
    """An Embedder whose texts are alike by the words that they share."""

    name, dimensions, longest = "words", 64, 10

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self.dimensions
        for word in text.lower().split():
            vector[sum(map(ord, word)) % self.dimensions] += 1
        length = math.sqrt(sum(value * value for value in vector))
        return [value / length for value in vector]

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def readiness(self) -> Readiness:
        return Readiness(self.name, "ready", "here")

    async def aclose(self) -> None:
        """Nothing to end."""


@pytest.fixture
def alike(model: ScriptedModel, mock: MockUpstream) -> Iterator[Cached]:
    with caching(local=model, cloud=model, embedder=Words(), openai_base_url=mock.base_url) as running:
        yield running


def say(cached: Cached, text: str, tenant: str = "a", least: str = "0.7", **fields: Any) -> httpx2.Response:
    headers = {"X-Tenant": tenant, **({"X-Semantic": least} if least else {})}
    return cached.ask("/local/generate", headers, prompt=text, **fields)


def test_another_wording_is_answered_with_its_score_for_a_key_that_asks_for_it(alike: Cached) -> None:
    say(alike, "please explain the python language")
    time.sleep(0.05)
    near = say(alike, "explain the python language")
    assert near.headers["X-Cache"] == "semantic"
    assert 0.7 <= float(near.headers["X-Cache-Score"]) < 1
    assert near.headers["Age"] == "0"
    assert until(lambda: alike.uses() == ["miss", "semantic"])
    assert say(alike, "explain the python language", least="").headers["X-Cache"] == "miss"
    exact = say(alike, "please explain the python language")
    assert exact.headers["X-Cache"] == "hit"
    assert "X-Cache-Score" not in exact.headers


def test_neither_tenants_nor_parameters_nor_numbers_mix(alike: Cached) -> None:
    say(alike, "name 10 rivers of europe please")
    time.sleep(0.05)
    assert say(alike, "name 10 rivers of europe", tenant="b").headers["X-Cache"] == "miss"
    assert say(alike, "name 10 rivers of europe", max_tokens=5).headers["X-Cache"] == "miss"
    assert say(alike, "name 20 rivers of europe").headers["X-Cache"] == "miss"
    assert say(alike, "name 10 rivers of europe", least="0.99").headers["X-Cache"] == "miss"
    assert say(alike, "please name 10 rivers of our europe").headers["X-Cache"] == "semantic"


def test_a_text_too_long_to_embed_is_simply_not_semantic(alike: Cached) -> None:
    long = "word " * 30
    assert [say(alike, long).headers["X-Cache"] for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize("stream", [False, True])
def test_on_v1_only_the_last_user_message_may_differ(stream: bool, alike: Cached, mock: MockUpstream) -> None:
    def ask(first: str, last: str) -> httpx2.Response:
        messages = [{"role": "system", "content": first}, {"role": "user", "content": last}]
        return alike.ask(CHAT, {"X-Semantic": "0.7"}, messages=messages, stream=stream)

    ask("be brief", "please explain the python language")
    time.sleep(0.05)
    near = ask("be brief", "explain the python language")
    assert (near.headers["X-Cache"], near.headers["X-Attempts"]) == ("semantic", "0")
    assert float(near.headers["X-Cache-Score"]) > 0.7
    assert ask("be long", "explain the python language").headers["X-Cache"] == "miss"


def test_the_page_documents_the_headers_in_both_directions(cached: Cached) -> None:
    page = httpx2.get(f"{cached.url}/openapi.json", timeout=90).json()
    for path in ("/generate", "/local/generate", "/v1/chat/completions", "/v1/embeddings"):
        operation = page["paths"][path]["post"]
        asked = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"}
        assert {"Cache-Control", "X-Cache-TTL"} <= asked, path
        assert {"X-Cache", "Age", "X-Cache-Score"} <= set(operation["responses"]["200"]["headers"]), path


def test_a_browser_may_read_the_headers(cached: Cached) -> None:
    answer = cached.ask("/local/generate", {"Origin": "http://example.org"}, prompt="hi")
    exposed = {name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert {"X-Cache", "Age", "X-Cache-Score"} <= exposed
