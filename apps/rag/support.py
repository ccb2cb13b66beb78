"""Which sentence of a passage supports an answer: by the likeness of their sentences' vectors, and by codes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apps.core.ports import Embedder
from apps.rag.normalization import normalized
from apps.rag.ranking import cosines
from apps.rag.records import Passage
from apps.rag.relevance import QuestionTerms

# a mark ends a sentence where white space or the end follows, or at once in scripts without blanks
SENTENCE = re.compile(r"[^\n]*?(?:[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。！？]+|(?=\n)|$)", re.MULTILINE)  # noqa: RUF001
REFERENCE = re.compile(r"\[(\d{1,3})\]")
LEAST_LIKENESS = 0.45
"""A cosine of all-MiniLM-L6-v2: under it, two sentences say different things."""
NEAR_BEST = 0.1
"""A sentence that is so much less like a question than another one is an answer to something else."""
SURE = 1.0
"""The likeness of a sentence that has a code of what is said: E-4711 and E-4712 are alike, and not the same."""
LEAST_LETTERS = 8
HEADING = re.compile(r"#{1,6} ")
MOST_SENTENCES = 96


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Support:
    """A sentence by its span in the document's text, and how like what is said it is."""

    start: int
    end: int
    likeness: float

    @property
    def span(self) -> tuple[int, int]:
        return self.start, self.end


def sentences(text: str) -> list[Sentence]:
    """With their spans; a heading is none, nor what has hardly a letter."""
    found: list[Sentence] = []
    for match in SENTENCE.finditer(text):
        shown = match[0].strip()
        if sum(map(str.isalnum, shown)) >= LEAST_LETTERS and not HEADING.match(shown):
            start = match.start() + match[0].index(shown)
            found.append(Sentence(shown, start, start + len(shown)))
    return found


def quotable(supports: Sequence[Support | None], most: int) -> list[int]:
    """Which of them, at most so many, answer a question: those that are about as like it as the best one is."""
    known = [(support.likeness, index) for index, support in enumerate(supports) if support is not None]
    likest = max(known, default=(0.0, 0))[0]
    near = [(-likeness, index) for likeness, index in known if likeness >= likest - NEAR_BEST]
    return sorted(index for _, index in sorted(near)[:most])


async def supports(embedder: Embedder, answer: str, passages: Sequence[Passage]) -> list[Support | None]:
    """Of each passage, the sentence that supports the answer most.

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
    at, found = len(said), list[Support | None]()
    for number, (passage, some) in enumerate(zip(passages, read, strict=True), 1):
        own = vectors[at : at + len(some)]
        at += len(some)
        asking = [
            (QuestionTerms(one.text), vector)
            for vector, one in zip(vectors, said, strict=False)
            if _speaks_of(one.text, number)
        ]
        found.append(_best(asking, own, some, passage))
    return found


def _speaks_of(sentence: str, number: int) -> bool:
    named = {int(one) for one in REFERENCE.findall(sentence)}
    return not named or number in named


def _best(
    asking: Sequence[tuple[QuestionTerms, Sequence[float]]],
    own: Sequence[Sequence[float]],
    some: Sequence[Sentence],
    passage: Passage,
) -> Support | None:
    likest, best = LEAST_LIKENESS, None
    for terms, vector in asking if own else ():
        for cosine, sentence in zip(cosines(vector, own), some, strict=True):
            likeness = SURE if terms.evidence(sentence.text, cosine, 0.0).code else cosine
            if likeness >= likest:
                likest, best = likeness, sentence
    return None if best is None else Support(passage.start + best.start, passage.start + best.end, likest)
