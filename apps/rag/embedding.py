"""Pieces to vectors: each with its headings before it where they fit, none over the embedder's longest text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.core.ports import Embedder
from apps.rag.parsing.pieces import Piece

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

LONGEST_HEADINGS = 120
"""Characters. The last headings say most."""


async def fitting(embedder: Embedder, pieces: Sequence[Piece]) -> list[tuple[Piece, str]]:
    """Each piece with the text to embed; one that is too long by the embedder's count is halved until it fits."""
    found: list[tuple[Piece, str]] = []
    waiting = list(pieces)
    while waiting:
        told = [_with_headings(piece) for piece in waiting]
        counts = await embedder.count_tokens(told)
        bare = [piece.text for piece, count in zip(waiting, counts, strict=True) if count > embedder.longest]
        shorter = iter(await embedder.count_tokens(bare) if bare else [])
        following: list[Piece] = []
        for piece, text, count in zip(waiting, told, counts, strict=True):
            if count <= embedder.longest:
                found.append((piece, text))
            elif next(shorter) <= embedder.longest:
                found.append((piece, piece.text))
            else:
                following += _halves(piece)
        waiting = following
    return sorted(found, key=lambda pair: pair[0].start)


async def vectors_of(embedder: Embedder, texts: Sequence[str]) -> "NDArray[float32]":
    import numpy as np

    # at once: as Python's own floats they would take eight times the memory
    return np.asarray(await embedder.embed(texts), dtype=np.float32)


def _with_headings(piece: Piece) -> str:
    path = " > ".join(piece.headings)[-LONGEST_HEADINGS:]
    # a section often begins with its own heading
    return f"{path}\n{piece.text}" if path and not piece.text.lstrip("# ").startswith(path) else piece.text


def _halves(piece: Piece) -> list[Piece]:
    middle = len(piece.text) // 2
    if middle == 0:
        return []
    cut = piece.start + middle
    return [
        Piece(piece.text[:middle], piece.start, cut, piece.page, piece.headings),
        Piece(piece.text[middle:], cut, piece.end, piece.page, piece.headings),
    ]
