"""An Embedder behind POST /embeddings, here an honest small one without torch."""

import base64
import json
import struct
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from apps.core.errors import AppError, ContextLengthExceeded, InvalidValue
from apps.core.messages import ChatRequest, user_message
from apps.core.ports import Readiness
from apps.gateway.openai_api.embeddings import EmbeddingsWire
from apps.gateway.protocol import WireCall


class Lengths:
    """Implements Embedder: a text's vector is its length; its tokens are its words."""

    name = "lengths"
    dimensions = 2
    longest = 10

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[float(len(text)), 0.5] for text in texts]

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def readiness(self) -> Readiness:
        return Readiness(self.name, "ready", "always")

    async def aclose(self) -> None:
        """Nothing to end."""


class Letters(Lengths):
    """Implements EmbedsTokens: a token a letter, between 0 and 1; a vector is its length and its first letter."""

    cuttable: Collection[int] = frozenset({1})

    async def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [[0, *map(ord, text), 1] for text in texts]

    async def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[float(len(run)), float(sum(run))] for run in tokens]


async def ask(path: str = "/embeddings", embedder: Lengths | None = None, **fields: Any) -> dict[str, Any]:
    body = {"model": "lengths", **fields}
    reply = await EmbeddingsWire(embedder or Lengths()).open(
        WireCall(path, json.dumps(body).encode(), body, False), "lengths"
    )
    assert reply.rest is None
    return dict(json.loads(reply.body))


async def test_each_text_gets_its_vector_in_its_order_and_all_tokens_are_counted() -> None:
    answer = await ask(input=["one two", "three"], user="u", encoding_format="float", dimensions=2)
    assert answer == {
        "object": "list",
        "model": "lengths",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
        "data": [
            {"object": "embedding", "index": 0, "embedding": [7.0, 0.5]},
            {"object": "embedding", "index": 1, "embedding": [5.0, 0.5]},
        ],
    }


async def test_base64_is_little_endian_float32() -> None:
    answer = await ask(input="three", encoding_format="base64")
    assert struct.unpack("<2f", base64.b64decode(answer["data"][0]["embedding"])) == (5.0, 0.5)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({}, "MISSING_REQUIRED_FIELD", "input"),
        ({"input": 3}, "INVALID_TYPE", "input"),
        ({"input": ["a", None]}, "INVALID_TYPE", "input.1"),
        ({"input": [1, 2]}, "INVALID_VALUE", "input"),
        ({"input": [[1, 2]]}, "INVALID_VALUE", "input"),
        ({"input": [1, 1.5]}, "INVALID_TYPE", "input"),
        ({"input": [[1], [True]]}, "INVALID_TYPE", "input.1"),
        ({"input": ["a", [1]]}, "INVALID_TYPE", "input.1"),
        ({"input": "word " * 11}, "INVALID_VALUE", "input"),
        ({"input": ["a", "word " * 11]}, "INVALID_VALUE", "input.1"),
        ({"input": "word " * 11, "truncation": True}, "INVALID_VALUE", "input"),
        ({"input": "a", "truncation": "yes"}, "INVALID_TYPE", "truncation"),
        ({"input": "a", "truncate_prompt_tokens": 11}, "INVALID_VALUE", "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "INVALID_VALUE", "truncate_prompt_tokens"),
        ({"input": ""}, "INVALID_VALUE", "input"),
        ({"input": ["a", ""]}, "INVALID_VALUE", "input.1"),
        ({"input": []}, "INVALID_VALUE", "input"),
        ({"input": ["a"] * 2049}, "INVALID_VALUE", "input"),
        ({"input": "a", "dimensions": 1}, "INVALID_VALUE", "dimensions"),
        ({"input": "a", "dimensions": "2"}, "INVALID_TYPE", "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "INVALID_VALUE", "encoding_format"),
        ({"input": "a", "stream": True}, "INVALID_VALUE", "stream"),
        ({"input": "a", "input_type": "query"}, "INVALID_VALUE", "input_type"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(AppError) as caught:
        await ask(**fields)
    assert (caught.value.code, caught.value.field) == (code, field)


async def test_an_embedder_does_not_chat() -> None:
    with pytest.raises(InvalidValue) as caught:
        await ask("/chat/completions", messages=[])
    assert caught.value.field == "model"
    chat = EmbeddingsWire(Lengths())
    assert chat.readiness().name == "lengths"
    with pytest.raises(InvalidValue):
        await anext(chat.stream(ChatRequest(user_message("hi"))))


async def test_tokens_are_taken_as_they_are_and_truncation_keeps_the_special_ones() -> None:
    async def vectors(given: Any, **fields: Any) -> tuple[list[list[float]], int]:
        answer = await ask(embedder=Letters(), input=given, **fields)
        return [entry["embedding"] for entry in answer["data"]], answer["usage"]["prompt_tokens"]

    assert await vectors([5, 6, 7]) == ([[3.0, 18.0]], 3)
    assert await vectors([[5], [6, 7]]) == ([[1.0, 5.0], [2.0, 13.0]], 3)
    assert await vectors("\x02" * 4) == ([[6.0, 9.0]], 6)
    assert await vectors("\x02" * 40, truncation=True) == ([[10.0, 17.0]], 10)
    assert await vectors("\x02" * 40, truncate_prompt_tokens=-1) == ([[10.0, 17.0]], 10)
    assert await vectors(["\x02" * 40, "\x02"], truncate_prompt_tokens=3) == ([[3.0, 3.0], [3.0, 3.0]], 6)
    assert await vectors([[9] * 40], truncate=True) == ([[10.0, 90.0]], 10)
    for long in ("\x02" * 9, [9] * 11):
        with pytest.raises(ContextLengthExceeded) as refused:
            await vectors([long[:1], long])
        assert refused.value.field == "input.1" and refused.value.details == {"index": 1, "tokens": 11, "max": 10}


async def test_cut_vectors_have_a_length_of_one_again() -> None:
    answer = await ask(embedder=Letters(), input="abc", dimensions=1)
    assert answer["data"][0]["embedding"] == [1.0]
    with pytest.raises(InvalidValue):
        await ask(embedder=Letters(), input="abc", dimensions=3)
