"""Whether a passage says anything about a question, and which of its sentences supports an answer. Pure.

The cosine alone refuses passages with the very part number that was asked for, and takes texts of a script that the
embedding does not know for alike. The rule is a logistic one over the cosine and over which of the question's words
stand in the passage; its numbers come from one half of a question set and are measured on the other
(`python -m eval.rag.calibration`, `make eval-rag`). Sentences are compared by their vectors, and by codes in them.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from apps.core.ports import Embedder
from apps.rag.normalization import UNSPACED, indexed, normalized
from apps.rag.records import Passage

RELEVANT = 0.35
"""From here on a passage is relevant: chosen on the tuning half with the rule."""
CODE_WEIGHT = 3.0
PREFIX = 5
"""Letters by which words of one stem are known as such: question and passage seldom inflect them alike."""
# pieces of the question as it is written; a code keeps its hyphens, dots and slashes
TOKEN = re.compile(r"\w+(?:[-./_:+#]\w+)*\+*#?")
WORD = re.compile(r"[^\W_]+")
KANA = re.compile("^[\u3041-\u309f]+$")
# words that ask and join, in the languages that questions come in most; what is asked about is never among them
STOP_WORDS = """
a about an and any are as at be been but by can could did do does for from get give had has have how i if in into is it
its me more much many may must my no not of on or our shall should so some tell than that the their them then there
these they this to us was we were what when where which who whom whose why will with would you your explain mean means
aber als am an auf aus bei bin bis da das dass dem den der des die dies diese dieser durch ein eine einem einen einer
eines er es für gibt hat habe haben hier ich ihr im in ist ja kann können man mein mich mir mit muss nach nicht noch nur
ob oder sein sich sie sind so soll und uns unser vom von vor wann war warum was weil welche welcher welches wem wen wenn
wer werden wie wieviel wird wir wo woher wohin wozu zu zum zur hoch viel viele lange
à au aux avec ce ces cet cette combien comment dans de des du elle en est et être fait faut il ils je la le les leur lui
mais me mon ne nous on ou où par pas pour pourquoi qu quand que quel quelle quelles quels qui quoi sa sans se ses son
sont sur ta te tu un une vous y peut dois doit a ont
el la los las un una unos unas de del al y o en que qué cuál cuándo cuánto cómo dónde por para con se su es son está hay
"""
STOP = frozenset(STOP_WORDS.split())


@dataclass(frozen=True, slots=True)
class Term:
    """``stem`` is what a word of the passage begins with, or, of a code, what it is."""

    stem: str
    code: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a question and a passage together; each between 0 and 1, the cosine from -1."""

    cosine: float
    coverage: float
    """Share of the question's terms that the passage has, codes weighing more."""
    code: float
    """1 where the passage has a code of the question."""
    missing_code: float
    """1 where the question has codes and the passage none of them."""
    unknown: float
    """Share of the question's tokens that the embedding does not know."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Weights of a logistic function of the evidence."""

    bias: float
    cosine: float
    coverage: float
    missing_code: float
    unknown_coverage: float

    def __call__(self, evidence: Evidence) -> float:
        """The relevance, 0 to 1."""
        if evidence.code:
            return 1.0
        return 1 / (1 + math.exp(-max(min(self.margin(evidence), 60.0), -60.0)))

    def margin(self, evidence: Evidence) -> float:
        return self.bias + sum(
            weight * value for weight, value in zip(self.weights(), features_of(evidence), strict=True)
        )

    def weights(self) -> tuple[float, ...]:
        return (self.cosine, self.coverage, self.missing_code, self.unknown_coverage)


def features_of(evidence: Evidence) -> tuple[float, ...]:
    """Of unknown tokens the cosine says nothing, and words all the more."""
    known = evidence.cosine * (1 - evidence.unknown)
    return known, evidence.coverage, evidence.missing_code, evidence.coverage * evidence.unknown


CALIBRATED = Rule(bias=-5.34, cosine=6.08, coverage=7.48, missing_code=-2.88, unknown_coverage=1.37)


class QuestionTerms:
    """What of a question has to stand in a passage."""

    def __init__(self, question: str) -> None:
        self.terms = terms_of(question)

    def evidence(self, passage: str, cosine: float | None, unknown: float) -> Evidence:
        """``passage`` with all that it is found by: its headings and its document's name, too."""
        text = indexed(passage).casefold()
        whole = set(WORD.findall(text))
        words = {word[:PREFIX] for word in whole} | whole
        with_codes = any(term.code for term in self.terms)
        codes = {token.strip(".:/-_") for token in TOKEN.findall(text)} if with_codes else set()
        found = [term for term in self.terms if _stands(term, text, words, codes)]
        weight = sum(map(_weight, self.terms))
        code = any(term.code for term in found)
        return Evidence(
            0.0 if cosine is None else cosine,
            sum(map(_weight, found)) / weight if weight else 0.0,
            float(code),
            float(with_codes and not code),
            1.0 if cosine is None else unknown,
        )


def terms_of(question: str) -> tuple[Term, ...]:
    text = indexed(question).casefold()
    terms: dict[Term, None] = {}
    for token in TOKEN.findall(text):
        token = token.strip(".:/-_")
        if is_code(token):
            terms[Term(token, code=True)] = None
            continue
        for word in WORD.findall(token):
            spaceless = UNSPACED.findall(word)
            for run in spaceless:
                pairs = [run[at : at + 2] for at in range(max(len(run) - 1, 1))]
                terms |= {Term(pair): None for pair in pairs if not KANA.match(pair)}
            if not spaceless and word not in STOP and len(word) > 1:
                terms[Term(word[:PREFIX])] = None
    return tuple(terms)


def is_code(token: str) -> bool:
    """Letters and digits together, or digits alone where they are many: a part number, an error, a standard."""
    digits = sum(char.isdigit() for char in token)
    letters = sum(unicodedata.category(char).startswith("L") for char in token)
    return (digits > 0 and letters > 0 and not UNSPACED.search(token)) or digits >= 5


def _stands(term: Term, text: str, words: set[str], codes: set[str]) -> bool:
    if term.code:
        return term.stem in codes
    return term.stem in (text if UNSPACED.search(term.stem) else words)


def _weight(term: Term) -> float:
    return CODE_WEIGHT if term.code else 1.0


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
    claims = sentences(answer)
    read = [sentences(passage.text) for passage in passages]
    if not claims or sum(map(len, read)) + len(claims) > MOST_SENTENCES:
        claims = claims[: MOST_SENTENCES // 4]
        read = [some[: MOST_SENTENCES * 3 // 4 // max(len(passages), 1)] for some in read]
    texts = [normalized(REFERENCE.sub("", one.text)) for one in claims]
    texts += [normalized(one.text) for some in read for one in some]
    if not claims or len(texts) == len(claims):
        return [None] * len(passages)
    counts = await embedder.count_tokens(texts)
    vectors = await embedder.embed(
        [
            text if count <= embedder.longest else text[: len(text) * embedder.longest // (2 * count)]
            for text, count in zip(texts, counts, strict=True)
        ]
    )
    at, found = len(claims), list[Support | None]()
    for number, (passage, some) in enumerate(zip(passages, read, strict=True), 1):
        own = vectors[at : at + len(some)]
        at += len(some)
        asking = [
            (QuestionTerms(one.text), vector)
            for vector, one in zip(vectors, claims, strict=False)
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
    from apps.rag.vectors import cosines

    likest, best = LEAST_LIKENESS, None
    for terms, vector in asking if own else ():
        for cosine, sentence in zip(cosines(vector, own), some, strict=True):
            likeness = SURE if terms.evidence(sentence.text, cosine, 0.0).code else cosine
            if likeness >= likest:
                likest, best = likeness, sentence
    return None if best is None else Support(passage.start + best.start, passage.start + best.end, likest)
