"""Embeddings of an upstream: in order, normalised, of the dimensions that were promised; errors of the tree only."""

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from apps.api.src.wiring.stores import chosen_embedder
from apps.core.errors import InvalidValue, ModelUnavailable, RateLimitExceeded, UpstreamError
from apps.core.settings import Settings
from apps.local.encoders.embedder import MiniLM
from apps.models.upstream_retrieval import OpenAIEmbedder
from apps.tests.support.raw_upstream import answer, raw_upstream
from eval.mock_upstream import mock_upstream


def embedder(base_url: str, dimensions: int = 8) -> OpenAIEmbedder:
    values: dict[str, Any] = {"rag_embedding_model": "embed-1", "rag_embedding_dimensions": dimensions}
    return OpenAIEmbedder(Settings(_env_file=None, openai_base_url=base_url, read_timeout=2, **values))


async def asked(reply: bytes, dimensions: int = 8) -> list[list[float]]:
    async with raw_upstream(reply) as upstream:
        model = embedder(upstream.base_url, dimensions)
        try:
            return await model.embed(["one", "two"])
        finally:
            await model.aclose()


def reply(*vectors: list[float], order: tuple[int, ...] = (0, 1)) -> bytes:
    data = [{"index": index, "embedding": vector} for index, vector in zip(order, vectors, strict=True)]
    return answer(json.dumps({"object": "list", "data": data}).encode())


@pytest.fixture
async def mocked() -> AsyncIterator[OpenAIEmbedder]:
    with mock_upstream() as upstream:
        model = embedder(f"{upstream.base_url}/v1")
        yield model
        await model.aclose()


async def test_vectors_come_in_the_order_of_the_texts_and_normalised(mocked: OpenAIEmbedder) -> None:
    vectors = await mocked.embed([f"text {'x' * n}" for n in range(300)])
    assert len(vectors) == 300
    assert {len(vector) for vector in vectors} == {8}
    assert all(math.isclose(sum(value * value for value in vector), 1, abs_tol=1e-6) for vector in vectors)
    turned = await asked(reply([0.0, 2.0] + [0.0] * 6, [3.0] + [0.0] * 7, order=(1, 0)))
    assert turned == [[1.0] + [0.0] * 7, [0.0, 1.0] + [0.0] * 6]


@pytest.mark.parametrize(
    "body",
    [
        answer(b'{"data": [{"index": 0, "embedding": [1,1,1,1,1,1,1,1]}]}'),
        reply([1.0] * 8, [0.0] * 8),
        answer(b'{"data": [{"index": 0}, 7]}'),
        answer(b'{"data": null}'),
        answer(b"[]"),
        answer(b"no json"),
    ],
)
async def test_nonsense_is_an_upstream_error(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        await asked(body)


async def test_wrong_dimensions_name_the_setting() -> None:
    with pytest.raises(UpstreamError, match="RAG_EMBEDDING_DIMENSIONS says 16"):
        await asked(reply([1.0] * 8, [1.0] * 8), dimensions=16)


async def test_a_refusal_is_translated() -> None:
    with pytest.raises(RateLimitExceeded):
        await asked(answer(b"{}", status="429 Too Many Requests"))


async def test_a_text_that_is_too_long_is_refused_and_never_sent(mocked: OpenAIEmbedder) -> None:
    with pytest.raises(InvalidValue) as caught:
        await mocked.embed(["fine", "x" * 9000])
    assert (caught.value.field, caught.value.details["index"]) == ("input", 1)


async def test_without_a_key_it_is_not_configured() -> None:
    model = OpenAIEmbedder(Settings(_env_file=None, rag_embedding_model="embed-1", openai_api_key=""))
    assert model.readiness().state == "not_configured"
    with pytest.raises(ModelUnavailable):
        await model.embed(["x"])


def test_the_settings_choose() -> None:
    chosen, tokenizer = chosen_embedder(Settings(_env_file=None, rag_embedding_model="embed-1"))
    assert (chosen.name, chosen.dimensions, tokenizer) == ("embed-1", 1536, None)
    local, tokenizer = chosen_embedder(Settings(_env_file=None, rag_embedding_model=""))
    assert isinstance(local, MiniLM)
    assert tokenizer is None or tokenizer.name == "tokenizer.json"
