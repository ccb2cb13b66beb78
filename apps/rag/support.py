"""Which sentence of a passage supports an answer: by the likeness of their sentences' vectors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apps.core.ports import Embedder
from apps.rag.normalization import normalized
from apps.rag.ranking import cosines
from apps.rag.records import Passage

# a mark ends a sentence where white space or the end follows, or at once in scripts without blanks
SENTENCE = re.compile(r"[^\n]*?(?:[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。！？]+|(?=\n)|$)", re.MULTILINE)  # noqa: RUF001
REFERENCE = re.compile(r"\[(\d{1,3})\]")
LEAST_LIKENESS = 0.45
"""A cosine of all-MiniLM-L6-v2: under it, two sentences say different things."""
LEAST_LETTERS = 8
MOST_SENTENCES = 96


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    start: int
    end: int


def sentences(text: str) -> list[Sentence]:
    """With their spans; what has hardly a letter is none."""
    found: list[Sentence] = []
    for match in SENTENCE.finditer(text):
        shown = match[0].strip()
        if sum(map(str.isalnum, shown)) >= LEAST_LETTERS:
            start = match.start() + match[0].index(shown)
            found.append(Sentence(shown, start, start + len(shown)))
    return found


async def supports(embedder: Embedder, answer: str, passages: Sequence[Passage]) -> list[tuple[int, int] | None]:
    """Of each passage, the span in its document's text of the sentence that supports the answer most.

    None where none does. An answer's sentence that names passages by number speaks of those alone.
    """
    said = sentences(answer)
    read = [sentences(passage.text) for passage in passages]
    if not said or sum(map(len, read)) + len(said) > MOST_SENTENCES:
        said = said[: MOST_SENTENCES // 4]
        read = [some[: MOST_SENTENCES * 3 // 4 // max(len(passages), 1)] for some in read]
    texts = [normalized(REFERENCE.sub("", one.text)) for one in said]
    texts += [normalized(one.text) for some in read for one in some]
    if not said or len(texts) == len(said):
        return [None] * len(passages)
    counts = await embedder.count_tokens(texts)
    vectors = await embedder.embed(
        [
            text if count <= embedder.longest else text[: len(text) * embedder.longest // (2 * count)]
            for text, count in zip(texts, counts, strict=True)
        ]
    )
    at, found = len(said), list[tuple[int, int] | None]()
    for number, (passage, some) in enumerate(zip(passages, read, strict=True), 1):
        own = vectors[at : at + len(some)]
        at += len(some)
        asking = [vector for vector, one in zip(vectors, said, strict=False) if _speaks_of(one.text, number)]
        found.append(_best(asking, own, some, passage))
    return found


def _speaks_of(sentence: str, number: int) -> bool:
    named = {int(one) for one in REFERENCE.findall(sentence)}
    return not named or number in named


def _best(
    asking: Sequence[Sequence[float]], own: Sequence[Sequence[float]], some: Sequence[Sentence], passage: Passage
) -> tuple[int, int] | None:
    likest, best = LEAST_LIKENESS, None
    for vector in asking if own else ():
        for cosine, sentence in zip(cosines(vector, own), some, strict=True):
            if cosine >= likest:
                likest, best = cosine, sentence
    return None if best is None else (passage.start + best.start, passage.start + best.end)
