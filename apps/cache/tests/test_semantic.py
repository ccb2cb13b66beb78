"""The semantic index: nearest first, within its scope, bounded, and silent where a text cannot be embedded."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from apps.cache.response_cache import SemanticIndex
from apps.core.errors import InvalidValue
from apps.core.ports import Readiness, State
from apps.local.encoders.embedder import MiniLM, missing_for_minilm
from eval.semantic_cache import RECOMMENDED, measure
from eval.semantic_pairs import DIFFERENT, PARAPHRASES


class Directions:
    """An Embedder of two dimensions: a text that is a number of degrees points there."""

    name, dimensions, longest = "directions", 2, 3

    def __init__(self, state: State = "ready", seconds: float = 0.0) -> None:
        self._readiness = Readiness(self.name, state, "because")
        self._seconds = seconds
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        import math

        self.texts += texts
        await asyncio.sleep(self._seconds)
        if any(len(text.split()) > self.longest for text in texts):
            raise InvalidValue("too long")
        angles = [math.radians(sum(map(ord, text)) % 90) for text in texts]
        return [[math.cos(angle), math.sin(angle)] for angle in angles]

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def readiness(self) -> Readiness:
        return self._readiness

    async def aclose(self) -> None:
        """Nothing to end."""


async def add(index: SemanticIndex, scope: bytes, digest: bytes, text: str, ttl: float = 60) -> None:
    vector = await index.vector_of(text)
    assert vector is not None
    index.add(scope, digest, vector, text, ttl)


async def nearest(index: SemanticIndex, scope: bytes, text: str, least: float = 0.5) -> list[tuple[bytes, float]]:
    vector = await index.vector_of(text)
    assert vector is not None
    return index.nearest(scope, vector, text, least)


async def test_the_nearest_comes_first_and_what_is_too_far_does_not_come() -> None:
    index = SemanticIndex(Directions())
    for digest, text in ((b"1", "ab"), (b"2", "ae"), (b"3", "az")):
        await add(index, b"s", digest, text)
    found = await nearest(index, b"s", "a d e", least=0.0)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert len(found) == 3
    best = found[0][1]
    assert [digest for digest, _ in await nearest(index, b"s", "a d e", least=best)] == [found[0][0]]


async def test_scopes_never_mix() -> None:
    index = SemanticIndex(Directions())
    await add(index, b"one", b"1", "ab")
    assert await nearest(index, b"two", "ab", least=0.0) == []
    assert [digest for digest, _ in await nearest(index, b"one", "ab")] == [b"1"]


async def test_what_has_expired_or_was_forgotten_is_not_found() -> None:
    now = [0.0]
    index = SemanticIndex(Directions(), clock=lambda: now[0])
    await add(index, b"s", b"1", "ab", ttl=5)
    await add(index, b"s", b"2", "ab", ttl=50)
    now[0] = 6
    assert [digest for digest, _ in await nearest(index, b"s", "ab")] == [b"2"]
    index.forget(b"s", b"2")
    index.forget(b"s", b"unknown")
    index.forget(b"t", b"2")
    assert await nearest(index, b"s", "ab") == []


async def test_memory_is_bounded_and_counted() -> None:
    index = SemanticIndex(Directions(), most_bytes=5000)
    for number in range(100):
        await add(index, bytes([number % 7]), bytes([number]), f"text {number}")
        assert 0 < index.size <= 5000
    for number in range(100):
        index.forget(bytes([number % 7]), bytes([number]))
    assert index.size == 0


async def test_a_text_that_cannot_be_embedded_is_simply_not_semantic() -> None:
    index = SemanticIndex(Directions())
    assert await index.vector_of("one two three four") is None
    assert await index.vector_of("x" * 2001) is None
    assert await index.vector_of("  ") is None


async def test_an_embedder_that_is_busy_is_not_waited_for() -> None:
    index = SemanticIndex(Directions(seconds=500))
    assert await index.vector_of("ab") is None
    assert index.too_slow == 1


async def test_without_an_embedder_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    embedder = Directions("not_configured")
    index = SemanticIndex(embedder)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await index.vector_of("ab") is None
    assert [record.getMessage() for record in caplog.records] == [
        "A key asks for the semantic cache and gets exact matches only: because"
    ]
    assert embedder.texts == []


class Vocabulary(Directions):
    """An embedder that knows letters, and what stands for all else."""

    async def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        return [sum(not sign.isalnum() and sign not in " ?" for sign in text) / len(text) for text in texts]


async def test_a_text_with_signs_or_letters_beyond_the_vocabulary_is_not_semantic() -> None:
    index = SemanticIndex(Vocabulary())
    assert await index.vector_of("what now?") is not None
    for blind in ("what \U0001f44d?", "\u600e\u4e48", "\u1230\u120b\u121d", "\u041a\u0430\u043a"):
        assert await index.vector_of(blind) is None
    assert index.size == 0
    # one without a vocabulary of its own knows all scripts
    assert await SemanticIndex(Directions()).vector_of("\u600e\u4e48") is not None


@pytest.mark.local
@pytest.mark.skipif(bool(missing_for_minilm()), reason="requirements-local.txt is not installed")
@pytest.mark.long
async def test_at_the_recommended_threshold_minilm_lets_no_other_question_through() -> None:
    minilm = MiniLM()
    [found] = await measure(minilm, [RECOMMENDED], DIFFERENT, PARAPHRASES[:12])
    await minilm.aclose()
    assert found.wrong == []
    assert found.wrong_by_cosine > 5
    assert found.hits >= 2


@pytest.mark.long
@pytest.mark.local
@pytest.mark.skipif(bool(missing_for_minilm()), reason="requirements-local.txt is not installed")
async def test_no_generated_pair_passes_at_the_recommended_threshold_and_paraphrases_still_do() -> None:
    minilm = MiniLM()
    [found] = await measure(minilm, [RECOMMENDED])
    await minilm.aclose()
    assert found.wrong == []
    assert found.hits >= 10
