"""Chunks to vectors: each with its headings before it where they fit, none over the embedder's longest text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.core.ports import Embedder
from apps.rag.normalization import normalized
from apps.rag.parsing.chunks import Chunk

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

LONGEST_HEADINGS = 120
"""Characters. The last headings say most."""


async def fitting(embedder: Embedder, chunks: Sequence[Chunk]) -> list[tuple[Chunk, str]]:
    """Each chunk with the text to embed; one that is too long by the embedder's count is halved until it fits."""
    found: list[tuple[Chunk, str]] = []
    waiting = list(chunks)
    while waiting:
        told = [_with_headings(chunk) for chunk in waiting]
        counts = await embedder.count_tokens(told)
        bare = [
            normalized(chunk.text) for chunk, count in zip(waiting, counts, strict=True) if count > embedder.longest
        ]
        shorter = iter(await embedder.count_tokens(bare) if bare else [])
        following: list[Chunk] = []
        for chunk, text, count in zip(waiting, told, counts, strict=True):
            if count <= embedder.longest:
                found.append((chunk, text))
            elif next(shorter) <= embedder.longest:
                found.append((chunk, normalized(chunk.text)))
            else:
                following += _halves(chunk)
        waiting = following
    return sorted(found, key=lambda pair: pair[0].start)


async def vectors_of(embedder: Embedder, texts: Sequence[str]) -> "NDArray[float32]":
    import numpy as np

    # at once: as Python's own floats they would take eight times the memory
    return np.asarray(await embedder.embed(texts), dtype=np.float32)


def _with_headings(chunk: Chunk) -> str:
    path = " > ".join(chunk.headings)[-LONGEST_HEADINGS:]
    # a section often begins with its own heading
    shown = f"{path}\n{chunk.text}" if path and not chunk.text.lstrip("# ").startswith(path) else chunk.text
    return normalized(shown)


def _halves(chunk: Chunk) -> list[Chunk]:
    middle = len(chunk.text) // 2
    if middle == 0:
        return []
    cut = chunk.start + middle
    return [
        Chunk(chunk.text[:middle], chunk.start, cut, chunk.page, chunk.headings),
        Chunk(chunk.text[middle:], cut, chunk.end, chunk.page, chunk.headings),
    ]
