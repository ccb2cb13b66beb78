"""Measures the semantic cache with the packaged embedder: different questions that pass, paraphrases that are hits.

    python -m eval.semantic_cache [THRESHOLD ...]

For each threshold how many pairs of different questions would be hits (none may be), and how many paraphrases are.
"""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apps.cache.response_cache import SemanticIndex
from apps.core.ports import Readiness
from apps.local.encoders.embedder import MiniLM
from eval.semantic_pairs import DIFFERENT, PARAPHRASES, Pair, generated

RECOMMENDED = 0.96
THRESHOLDS = (0.9, 0.92, 0.94, RECOMMENDED, 0.98)
SCOPE = b"scope"


@dataclass(frozen=True, slots=True)
class Measured:
    """Pairs that would be hits, of both kinds; and paraphrases that the cosine alone would let through."""

    threshold: float
    wrong: list[Pair]
    hits: int
    hits_by_cosine: int
    wrong_by_cosine: int


class Remembered:
    """Implements Embedder and KnowsWords: what another one said of texts, asked of it all at once."""

    def __init__(self, embedder: MiniLM, vectors: dict[str, list[float]], unknown: dict[str, float]) -> None:
        self.name, self.dimensions, self.longest = embedder.name, embedder.dimensions, embedder.longest
        self._embedder, self._vectors, self._unknown = embedder, vectors, unknown

    @classmethod
    async def of(cls, embedder: MiniLM, texts: Sequence[str]) -> "Remembered":
        vectors, unknown = await embedder.embed(texts), await embedder.unknown_shares(texts)
        return cls(embedder, dict(zip(texts, vectors, strict=True)), dict(zip(texts, unknown, strict=True)))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self._vectors[text] for text in texts]

    async def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        return [self._unknown[text] for text in texts]

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return await self._embedder.count_tokens(texts)

    def readiness(self) -> Readiness:
        return self._embedder.readiness()

    async def aclose(self) -> None:
        """The other one is its owner's to end."""


async def scores(embedder: Remembered, pairs: Iterable[Pair]) -> list[tuple[float | None, float]]:
    """Of each pair the score of the hit, None where it is none; and the cosine."""
    import numpy as np

    found: list[tuple[float | None, float]] = []
    for one, two in pairs:
        index = SemanticIndex(embedder)
        ours, theirs = await embedder.embed([one, two])
        cosine = float(np.dot(ours, theirs))
        kept, asked = await index.vector_of(one), await index.vector_of(two)
        near: list[tuple[bytes, float]] = []
        if kept is not None and asked is not None:
            index.add(SCOPE, b"kept", kept, one, 60.0)
            near = index.nearest(SCOPE, asked, two, -1.0)
        found.append((near[0][1] if near else None, cosine))
    return found


ALL_DIFFERENT: tuple[Pair, ...] = (*DIFFERENT, *(pair for pairs in generated().values() for pair in pairs))


async def measure(
    model: MiniLM,
    thresholds: Iterable[float],
    different: Sequence[Pair] = ALL_DIFFERENT,
    same: Sequence[Pair] = PARAPHRASES,
) -> list[Measured]:
    """What each threshold lets through."""
    texts = sorted({text for pair in (*different, *same) for text in pair})
    embedder = await Remembered.of(model, texts)
    wrong = list(zip(different, await scores(embedder, different), strict=True))
    right = await scores(embedder, same)
    return [
        Measured(
            least,
            [pair for pair, (score, _) in wrong if score is not None and score >= least],
            sum(score is not None and score >= least for score, _ in right),
            sum(cosine >= least for _, cosine in right),
            sum(cosine >= least for _, (_, cosine) in wrong),
        )
        for least in thresholds
    ]


async def main(arguments: list[str]) -> int:
    embedder = MiniLM()
    try:
        found = await measure(embedder, [float(one) for one in arguments] or THRESHOLDS)
    finally:
        await embedder.aclose()
    print(f"{len(ALL_DIFFERENT)} pairs of different questions, {len(PARAPHRASES)} paraphrases")
    print(
        "| threshold | different ones that are hits | by the cosine alone | paraphrases that are hits | by the cosine |"
    )
    print("|---|---|---|---|---|")
    for one in found:
        print(f"| {one.threshold} | {len(one.wrong)} | {one.wrong_by_cosine} | {one.hits} | {one.hits_by_cosine} |")
    for pair in next((one.wrong for one in found if one.threshold == RECOMMENDED), []):
        print(f"a hit at {RECOMMENDED}: {pair}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
