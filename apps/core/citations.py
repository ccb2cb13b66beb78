"""What an answer from documents is made from: citations, which travel with its first delta."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that the model was given; ``number`` is how the answer's text may refer to it, as in [1].

    ``start`` and ``end`` are its span in the document's text, in Unicode code points, and ``quote`` is what stands
    there. ``document`` is the document's id, ``name`` the name of its file. ``page`` counts from 1.
    """

    number: int
    document: str
    name: str
    page: int | None
    heading: tuple[str, ...]
    start: int
    end: int
    score: float
    quote: str


def citations_json(citations: Sequence[Citation]) -> list[dict[str, Any]]:
    """As they are written in every answer."""
    return [
        {
            "number": citation.number,
            "document": citation.document,
            "name": citation.name,
            "page": citation.page,
            "heading": list(citation.heading),
            "span": [citation.start, citation.end],
            "score": citation.score,
            "quote": citation.quote,
        }
        for citation in citations
    ]
