"""Processes without models ask the one that has them for vectors, tokens and relevance, and load none themselves."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from apps.api.src.wiring.fleet import remote_local
from apps.api.src.wiring.services import build_services
from apps.api.src.wiring.stores import EmbeddingModels, chosen_reranker
from apps.core.errors import InvalidValue, ModelUnavailable, NotFound
from apps.core.ports import Embedder, EmbedsTokens, KnowsWords, Readiness
from apps.gateway.replicas.retrieval import ReplicaEmbedder, ReplicaReranker
from apps.local.encoders.embedder import MINILM, MINILM_DIMENSIONS, MINILM_LONGEST
from apps.rag.library import Library
from apps.rag.records import Upload
from apps.tests.marks import marked
from apps.tests.support.fleet import ServedReplica, serving_replica
from apps.tests.support.ports import free_port
from apps.tests.support.serving import settings
from apps.tests.support.word_models import WordEmbedder, WordReranker

SECRET = marked("FLEET_SECRET of the one embedder")


@pytest.fixture(scope="module")
def words() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture(scope="module")
def relevance() -> WordReranker:
    return WordReranker()


@pytest.fixture(scope="module")
def replica(words: WordEmbedder, relevance: WordReranker) -> Iterator[ServedReplica]:
    with serving_replica(fleet_secret=SECRET, embedder=words, reranker=relevance) as served:
        yield served


@pytest.fixture
async def embedder(replica: ServedReplica) -> AsyncIterator[ReplicaEmbedder]:
    local = remote_local(settings(local_url=replica.url, fleet_secret=SECRET))
    yield ReplicaEmbedder(local.target, "words", WordEmbedder.dimensions, 8)
    await local.aclose()


async def test_vectors_tokens_and_shares_are_those_of_the_process_that_has_the_model(
    embedder: ReplicaEmbedder, words: WordEmbedder
) -> None:
    remote: Embedder = embedder
    assert isinstance(remote, EmbedsTokens) and isinstance(remote, KnowsWords)
    texts = ["the cat sat on the mat", "a dog", ""]
    assert await embedder.tokenize(texts) == await words.tokenize(texts)
    assert await embedder.count_tokens(texts) == [8, 4, 2]
    assert await embedder.unknown_shares(texts) == [0.0, 0.25, 0.0]
    # an empty text too, which OpenAI's API does not take
    for given in (texts, texts[:2]):
        for vector, expected in zip(await embedder.embed(given), await words.embed(given), strict=True):
            assert vector == pytest.approx(expected, abs=1e-7)
    assert await embedder.embed_tokens([[1, 3, 2]]) == [pytest.approx((await words.embed(["cat"]))[0], abs=1e-7)]
    assert await embedder.embed([]) == [] and await embedder.tokenize([]) == []
    assert (embedder.readiness().state, embedder.readiness().details["longest_input"]) == ("ready", 8)


async def test_a_text_that_is_too_long_is_refused_as_by_the_model_itself(embedder: ReplicaEmbedder) -> None:
    with pytest.raises(InvalidValue, match="8 tokens a text") as caught:
        await embedder.embed(["cat", "the cat sat on the mat and sat"])
    assert (caught.value.field, caught.value.details["index"]) == ("input.1", 1)


async def test_a_model_that_the_process_does_not_have_is_named_with_the_remedy(embedder: ReplicaEmbedder) -> None:
    other = ReplicaEmbedder(embedder.target, "other", 4, 8)
    with pytest.raises(NotFound, match="other"):
        await other.embed(["cat"])
    told = other.readiness()
    assert (told.state, told.retry_after) == ("failed", None) and "EMBEDDING_MODELS" in told.reason


async def test_relevance_is_asked_there_too(embedder: ReplicaEmbedder) -> None:
    ranked = await ReplicaReranker(embedder.target, "shared-words").rerank("cat mat", ["dog", "mat", "cat mat"])
    assert (list(ranked.scores), ranked.tokens) == ([0.0, 0.5, 1.0], 6)


async def test_what_could_not_be_loaded_there_says_when_it_is_asked_again_and_then_is(
    embedder: ReplicaEmbedder, words: WordEmbedder, relevance: WordReranker
) -> None:
    reranker = ReplicaReranker(embedder.target, relevance.name)

    def states() -> set[tuple[object, ...]]:
        return {(one.readiness().state, one.readiness().retry_after) for one in (embedder, reranker)}

    async def told(*wanted: object) -> None:
        async with asyncio.timeout(60):
            while states() != {wanted}:  # noqa: ASYNC110 - probes tell no one
                await asyncio.sleep(0.01)

    await embedder.embed(["cat"])
    words.trouble = Readiness(words.name, "failed", "It did not load", {}, 37.0)
    relevance.trouble = Readiness(relevance.name, "failed", "It did not load", {}, 37.0)
    await told("failed", 37.0)
    for call in (embedder.embed(["cat"]), reranker.rerank("cat", ["cat"])):
        with pytest.raises(ModelUnavailable, match="did not load") as caught:
            await call
        assert caught.value.retry_after == 37.0
    words.trouble = relevance.trouble = None
    await told("ready", None)
    assert len(await embedder.embed(["cat"])) == len((await reranker.rerank("cat", ["cat"])).scores) == 1


async def test_tokens_of_texts_are_for_those_who_know_the_secret(http: httpx2.Client, replica: ServedReplica) -> None:
    body = {"model": "words", "input": ["the cat"], "return_unknown_shares": True}
    url = f"{replica.url}/v1/embeddings/tokens"
    assert http.post(url, json=body).status_code == 401
    known = {"Authorization": f"Bearer {SECRET}"}
    told = {"model": "words", "counts": [4], "unknown_shares": [0.0]}
    assert http.post(url, json=body, headers=known).json() == told
    assert http.post(url, json={**body, "model": "none"}, headers=known).status_code == 404
    assert http.post(url, json={**body, "input": []}, headers=known).status_code == 400


async def test_a_process_with_its_models_elsewhere_has_no_embedder_of_its_own() -> None:
    configured = settings(
        local_url=f"http://127.0.0.1:{free_port()}", fleet_secret=SECRET, rerank_model="some/reranker", auth="off"
    )
    services = build_services(configured)
    try:
        assert services.documents is not None
        assert isinstance(services.embedder, ReplicaEmbedder) and services.documents.embedder is services.embedder
        told = (services.embedder.name, services.embedder.dimensions, services.embedder.longest)
        assert told == (MINILM, MINILM_DIMENSIONS, MINILM_LONGEST)
        assert isinstance(services.reranker, ReplicaReranker) and services.reranker.name == "reranker"
        with pytest.raises(ModelUnavailable):
            await services.embedder.embed(["text"])
        # nothing is spent on files meanwhile, and a caller is told when to come again
        assert services.documents.library.readiness().retry_after == 1.0
    finally:
        await services.aclose()


def test_models_stand_in_this_process_unless_they_are_elsewhere() -> None:
    here = EmbeddingModels(settings())
    assert not isinstance(here.first, ReplicaEmbedder) and here.others == []
    assert not isinstance(chosen_reranker(settings(rerank_model="some/reranker")), ReplicaReranker)


async def test_no_file_is_tried_while_the_process_with_the_model_is_away(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    away = remote_local(settings(local_url=f"http://127.0.0.1:{free_port()}", fleet_secret=SECRET))
    embedder = ReplicaEmbedder(away.target, "words", WordEmbedder.dimensions, 64)
    library = Library(tmp_path, embedder)
    with pytest.raises(ModelUnavailable) as caught:
        await library.submit("a", "notes", [Upload("one.txt", b"the cat")])
    assert caught.value.retry_after == 1.0
    await library.aclose()
    await away.aclose()
