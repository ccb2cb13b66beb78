"""An embedder and a reranker that read words and need no weights; each counts what it was asked."""

import math
from collections.abc import Collection, Sequence

from apps.core.errors import TextTooLong
from apps.core.ports import Readiness, Reranked

KNOWN = ("", "[begin]", "[end]", "cat", "dog", "the", "sat", "on", "mat")
UNKNOWN = len(KNOWN)


class WordEmbedder:
    """Implements Embedder, EmbedsTokens and KnowsWords: a text is its words between two special tokens."""

    cuttable: Collection[int] = ()
    dimensions = UNKNOWN + 1

    def __init__(self, name: str = "words", longest: int = 8) -> None:
        self.name = name
        self.longest = longest
        self.calls: list[int] = []
        self.trouble: Readiness | None = None

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await self.embed_tokens(await self.tokenize(texts))

    async def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [[1, *(KNOWN.index(w) if w in KNOWN else UNKNOWN for w in text.split()), 2] for text in texts]

    async def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
        self.calls.append(len(tokens))
        for index, run in enumerate(tokens):
            if len(run) > self.longest:
                raise TextTooLong(len(run), self.longest, index, "input" if len(tokens) == 1 else f"input.{index}")
        counted = [[float(list(run).count(token)) for token in range(self.dimensions)] for run in tokens]
        return [[value / math.hypot(*vector) for value in vector] for vector in counted]

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(run) for run in await self.tokenize(texts)]

    async def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        return [run.count(UNKNOWN) / len(run) for run in await self.tokenize(texts)]

    def readiness(self) -> Readiness:
        if self.trouble is not None:
            return self.trouble
        return Readiness(self.name, "ready", "always", {"dimensions": self.dimensions, "longest_input": self.longest})

    async def aclose(self) -> None:
        """Nothing to end."""


class WordReranker:
    """Implements Reranker: a text's relevance is the share of the query's words that it has."""

    name = "shared-words"

    def __init__(self) -> None:
        self.calls = 0
        self.trouble: Readiness | None = None

    async def rerank(self, query: str, texts: Sequence[str]) -> Reranked:
        self.calls += 1
        asked = query.split()
        scores = [sum(word in text.split() for word in asked) / len(asked) for text in texts]
        return Reranked(self.name, scores, len(asked) * len(texts))

    def readiness(self) -> Readiness:
        return self.trouble or Readiness(self.name, "ready", "always")

    async def aclose(self) -> None:
        """Nothing to end."""
