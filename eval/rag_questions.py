"""The questions of the evaluation of retrieval, and the split on which nothing may be tuned.

Two sets. ``asked``: questions written by hand (rag_questions.tsv: a question and the entries that answer it, any of
which will do), for entries most of which a hash has chosen; they avoid the entries' own words where a user would not
know them. ``summaries``: the first sentence of an entry that a hash has chosen, which is then taken out of its
document, so that no query is a copy of a passage. The unanswerable ones (rag_unanswerable.txt) are about other things.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from eval.rag_corpus import Entry, modules

Split = Literal["tuning", "test"]
HERE = Path(__file__).parent
SENTENCE = re.compile(r"(?s)(.{20,200}?[.?!])(?:\s+|$)(.*)")
EVERY = 3
LEAST_LEFT = 80


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    targets: frozenset[str]

    @property
    def split(self) -> Split:
        """Half of them each, by a hash of the question."""
        return "tuning" if _hash(self.text) % 2 else "test"


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """``files`` are the documents to ingest, by name."""

    files: dict[str, list[Entry]]
    asked: list[Question]
    summaries: list[Question]
    unanswerable: list[Question]


def question_set() -> QuestionSet:
    """The same for every run on one version of Python; a question whose entries it does not have is left out."""
    files = {f"{name}.md": entries for name, entries in modules()}
    known = {entry.name for entries in files.values() for entry in entries}
    asked = [question for question in _asked() if question.targets & known]
    kept = frozenset[str]().union(*(question.targets for question in asked))
    summaries: list[Question] = []
    for name, entries in files.items():
        files[name] = [_without_summary(entry, summaries) if entry.name not in kept else entry for entry in entries]
    # a sentence that a sibling has too would be a copy of a passage, and of the wrong one
    whole = "\n".join(plain(entry.text) for entries in files.values() for entry in entries)
    summaries = [question for question in summaries if plain(question.text) not in whole]
    lines = (HERE / "rag_unanswerable.txt").read_text(encoding="utf-8").splitlines()
    return QuestionSet(files, asked, summaries, [Question(line, frozenset()) for line in lines])


def plain(text: str) -> str:
    """For comparing: without line breaks and capitals."""
    return " ".join(text.split()).lower()


def split(questions: Iterable[Question], which: Split) -> list[Question]:
    return [question for question in questions if question.split == which]


def _asked() -> list[Question]:
    lines = (HERE / "rag_questions.tsv").read_text(encoding="utf-8").splitlines()
    return [Question(text, frozenset(targets)) for text, *targets in (line.split("\t") for line in lines)]


def _without_summary(entry: Entry, questions: list[Question]) -> Entry:
    """The entry as it is, or with its first sentence among the questions instead."""
    found = SENTENCE.match(entry.text)
    if found is None or len(found[2]) < LEAST_LEFT or _hash(entry.name) % EVERY:
        return entry
    questions.append(Question(" ".join(found[1].split()), frozenset({entry.name})))
    return replace(entry, text=found[2])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
