"""POST /v1/rerank: order, shapes and errors; and what a reranker does to a search."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.api.src.application import create_app
from apps.core.calls import CallRecord
from apps.core.errors import Overloaded
from apps.core.ports import Readiness, Reranked
from apps.models.metering import Meter
from apps.models.upstream_retrieval import UpstreamReranker
from apps.tests.support.rag_serving import rag_app
from apps.tests.support.serving import serving, settings


class Longest:
    """Implements Reranker: the longest text is the most relevant."""

    name = "longest"

    async def rerank(self, query: str, texts: Sequence[str]) -> Reranked:
        return Reranked(self.name, [len(text) / 100 for text in texts], 7)

    def readiness(self) -> Readiness:
        return Readiness(self.name, "ready", "always")

    async def aclose(self) -> None:
        """Nothing to end."""


def called(folder: Path, bodies: Sequence[Any], reranker: Any = None) -> list[httpx2.Response]:
    """The answers of one service, a body each."""
    _, services = rag_app(folder)
    app = create_app(settings(data_dir=folder, auth="off"), replace(services, reranker=reranker))
    with serving(app) as url, httpx2.Client(timeout=90) as client:
        return [client.post(f"{url}/v1/rerank", json=body) for body in bodies]


BODY: dict[str, Any] = {"query": "q", "documents": ["aa", {"text": "aaaa"}, "a"]}


@pytest.mark.long
def test_documents_come_back_by_relevance(tmp_path: Path) -> None:
    answer, whole = called(tmp_path, [BODY | {"top_n": 2, "return_documents": True}, BODY], Longest())
    assert answer.status_code == 200 and answer.headers["X-Model"] == "longest"
    told = answer.json()
    assert told["results"] == [
        {"index": 1, "relevance_score": 0.04, "document": {"text": "aaaa"}},
        {"index": 0, "relevance_score": 0.02, "document": {"text": "aa"}},
    ]
    assert (told["model"], told["usage"]) == ("longest", {"prompt_tokens": 7, "total_tokens": 7})
    bare = whole.json()
    assert [sorted(one) for one in bare["results"]] == [["index", "relevance_score"]] * 3


def test_texts_come_back_in_the_shape_of_text_embeddings_inference(tmp_path: Path) -> None:
    body = {"query": "q", "texts": ["aa", "aaaa", "a"], "top_n": 2, "return_text": True}
    answer, scores = called(tmp_path, [body, {"query": "q", "texts": ["aa"]}], Longest())
    assert answer.json() == [{"index": 1, "score": 0.04, "text": "aaaa"}, {"index": 0, "score": 0.02, "text": "aa"}]
    assert scores.json() == [{"index": 0, "score": 0.02}]


WRONG: list[tuple[Any, int, str]] = [
    ({"query": "q"}, 400, "documents"),
    (BODY | {"texts": ["a"]}, 400, "texts"),
    ({"query": "q", "documents": 3}, 400, "documents"),
    ({"query": "q", "documents": []}, 400, "documents"),
    ({"documents": ["a"]}, 400, "query"),
    (BODY | {"top_n": 0}, 400, "top_n"),
    (BODY | {"model": "other"}, 404, "model"),
]


def test_what_is_wrong_is_said_in_openais_shape(tmp_path: Path) -> None:
    answers = called(tmp_path, [body for body, _, _ in WRONG], Longest())
    found = [(answer.status_code, answer.json()["error"]["param"]) for answer in answers]
    assert found == [(status, param) for _, status, param in WRONG]


def test_without_a_reranker_it_is_said_in_openais_shape(tmp_path: Path) -> None:
    (answer,) = called(tmp_path, [BODY])
    assert (answer.status_code, answer.json()["error"]["param"]) == (503, None)


class Book:
    """Implements Bookkeeper: keeps what has ended."""

    def __init__(self) -> None:
        self.closed: list[CallRecord] = []

    async def opening(self, call: CallRecord) -> None:
        """Nothing is refused."""

    def closing(self, call: CallRecord) -> None:
        self.closed.append(call)


def test_a_call_is_on_record_with_its_tokens_and_so_is_one_that_fails(tmp_path: Path) -> None:
    class Broken(Longest):
        async def rerank(self, query: str, texts: Sequence[str]) -> Reranked:
            raise Overloaded("full")

    for reranker, outcome, tokens in ((Longest(), "ok", 7), (Broken(), "OVERLOADED", None)):
        book = Book()
        services = replace(rag_app(tmp_path)[1], reranker=reranker, meter=Meter([book]))
        with serving(create_app(settings(data_dir=tmp_path, auth="off"), services)) as url:
            httpx2.post(f"{url}/v1/rerank", json=BODY)
        [call] = book.closed
        assert (call.route, call.model, call.provider) == ("/v1/rerank", "longest", "local")
        assert (call.outcome, call.prompt_tokens, call.attempts) == (outcome, tokens, 1)


async def test_an_upstream_reranks_by_the_shared_shape(tmp_path: Path) -> None:
    app = create_app(settings(data_dir=tmp_path, auth="off"), replace(rag_app(tmp_path)[1], reranker=Longest()))
    with serving(app) as url:
        reranker = UpstreamReranker(settings(rerank_model="longest", rerank_base_url=f"{url}/v1"))
        ranked = await reranker.rerank("q", ["aa", "aaaa", "a"])
        assert ranked == Reranked("longest", [0.02, 0.04, 0.01], 7)
        await reranker.aclose()
