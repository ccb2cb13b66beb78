"""The rule of relevance, calibrated: `python -m eval.rag.calibration`; reports/rag_relevance.md with its curve.

Questions: those about the standard library's documentation and about other things (eval/rag_questions.py), and a set in
German, French, Japanese and of codes over documents of their own (mixed.md, mixed_questions.tsv). A hash halves both:
the rule's numbers and its threshold come from the tuning half, and what is reported is of the other.
"""

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.local.encoders.embedder import MiniLM
from apps.rag.library import Library
from apps.rag.normalization import normalized
from apps.rag.records import Passage, Upload
from apps.rag.relevance import CALIBRATED, RELEVANT, Evidence, QuestionTerms, Rule, features_of
from apps.rag.search import Ranking
from eval.rag_questions import QuestionSet, question_set, split
from eval.rag_retrieval import COLLECTION, TENANT, ingest, open_library

HERE = Path(__file__).parent
REPORTS = Path("reports")
MIXED = "mixed"
TOP_K = 5
STEPS = 4000
RATE = 0.5
PENALTY = 1e-3
MOST_REFUSED, MOST_ANSWERED = 0.05, 0.10
OLD_THRESHOLD = 0.4
"""RAG_MIN_SCORE's default before there was a rule."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the evidence of what a search found for it; ``tuning`` says which half it is in."""

    group: str
    text: str
    answerable: bool
    tuning: bool
    evidence: tuple[Evidence, ...]


async def gather() -> list[Asked]:
    """Every question, searched for in its collection with the real embedding model."""
    questions = question_set()
    embedder = MiniLM()
    with tempfile.TemporaryDirectory() as folder:
        library = open_library(Path(folder), embedder, embedder.tokenizer_file, Ranking())
        await library.start()
        try:
            await ingest(library, questions)
            await _ingest_mixed(library)
            return [asked async for asked in _asked(library, embedder, questions)]
        finally:
            await library.aclose()
            await embedder.aclose()


async def _ingest_mixed(library: Library) -> None:
    """Each line a document of its own: so short passages compete, as in a collection of notes."""
    name, uploads = "", list[Upload]()
    for line in (HERE / "mixed.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            name = line[2:]
        elif line:
            uploads.append(Upload(f"{len(uploads)} {name}", line.encode()))
    job = await library.submit(TENANT, MIXED, uploads)
    async for _ in library.watch(TENANT, job.id):
        pass


async def _asked(library: Library, embedder: MiniLM, questions: QuestionSet) -> Any:
    tuning = {question.text for question in split([*questions.asked, *questions.unanswerable], "tuning")}
    for question in [*questions.asked, *questions.unanswerable]:
        answerable = bool(question.targets)
        found = await _evidence(library, embedder, COLLECTION, question.text)
        yield Asked("en", question.text, answerable, question.text in tuning, found)
    for line in (HERE / "mixed_questions.tsv").read_text(encoding="utf-8").splitlines():
        group, text, answer = line.split("\t")
        half = hashlib.sha256(text.encode()).digest()[0] % 2 == 0
        yield Asked(group, text, bool(answer), half, await _evidence(library, embedder, MIXED, text))


async def _evidence(library: Library, embedder: MiniLM, collection: str, text: str) -> tuple[Evidence, ...]:
    found: Sequence[Passage] = await library.search(TENANT, collection, text, top_k=TOP_K)
    [unknown] = await embedder.unknown_shares([normalized(text)])
    terms = QuestionTerms(text)
    return tuple(
        terms.evidence("\n".join((one.name, *one.headings, one.text)), one.vector_score, unknown) for one in found
    )


def fitted(asked: Iterable[Asked]) -> Rule:
    """Logistic regression on the best passage of each question, classes and groups weighing the same."""
    rows = list(asked)
    rule = CALIBRATED
    for _ in range(5):
        # which passage is the best one depends on the rule
        best = [max(one.evidence, key=rule.margin) for one in rows if one.evidence]
        kept = [(one, evidence) for one, evidence in zip(rows, best, strict=True) if not evidence.code]
        matrix = np.array([(1.0, *features_of(evidence)) for _, evidence in kept])
        truth = np.array([float(one.answerable) for one, _ in kept])
        rule = Rule(*(round(float(value), 2) for value in _logistic(matrix, truth, _weights(kept))))
    return rule


def _weights(kept: Sequence[tuple[Asked, Evidence]]) -> NDArray[np.float64]:
    keys = [(one.group, one.answerable) for one, _ in kept]
    return np.array([1 / keys.count(key) for key in keys]) / len(set(keys))


def _logistic(matrix: NDArray[np.float64], truth: NDArray[np.float64], weights: NDArray[np.float64]) -> Any:
    values = np.zeros(matrix.shape[1])
    for _ in range(STEPS):
        guessed = 1 / (1 + np.exp(-(matrix @ values)))
        gradient = matrix.T @ (weights * (guessed - truth)) + PENALTY * np.array([0.0, *values[1:]])
        values -= RATE * 4 * gradient
    return values


def threshold(asked: Sequence[Asked], rule: Rule) -> float:
    """The one whose two mistakes are farthest from what is allowed: 5% refused, 10% answered."""

    def worst(at: float) -> float:
        refused, answered = mistakes(asked, lambda one: answers(one, rule, at))
        return max(refused / MOST_REFUSED, answered / MOST_ANSWERED)

    return min((step / 20 for step in range(1, 20)), key=worst)


def answers(one: Asked, rule: Rule, threshold: float) -> bool:
    return any(rule(evidence) >= threshold for evidence in one.evidence)


def answers_before(one: Asked, threshold: float) -> bool:
    return any(evidence.cosine >= threshold for evidence in one.evidence)


def mistakes(asked: Sequence[Asked], decide: Any) -> tuple[float, float]:
    """Shares of answerable questions that are refused, and of others that are answered."""
    answerable = [one for one in asked if one.answerable]
    others = [one for one in asked if not one.answerable]
    return (
        sum(not decide(one) for one in answerable) / max(len(answerable), 1),
        sum(decide(one) for one in others) / max(len(others), 1),
    )


def report(asked: Sequence[Asked], rule: Rule, at: float) -> str:
    test = [one for one in asked if not one.tuning]
    lines = [
        "# Relevance\n",
        f"{len(asked)} questions, {len(test)} of them on the half on which nothing was tuned; everything below is of "
        "those. The rule's numbers as the library has them: " + json.dumps(astuple(CALIBRATED)) + "; as this run would "
        f"choose them: {json.dumps(astuple(rule))}, with a threshold of {at:.2f} (the library has {RELEVANT}).\n",
        "| questions | answerable | others | refused, rule | answered, rule | refused, cosine | answered, cosine |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in ("all", *dict.fromkeys(one.group for one in test)):
        of = [one for one in test if group in ("all", one.group)]
        counts = sum(one.answerable for one in of), sum(not one.answerable for one in of)
        now = mistakes(of, lambda one: answers(one, CALIBRATED, RELEVANT))
        before = mistakes(of, lambda one: answers_before(one, OLD_THRESHOLD))
        shares = " | ".join(f"{share:.1%}" for share in (*now, *before))
        lines.append(f"| {group} | {counts[0]} | {counts[1]} | {shares} |")
    lines += ["\n## The trade\n", "| threshold | refused | answered |", "|---|---|---|"]
    for step in range(1, 20):
        refused, answered = mistakes(test, lambda one, at=step / 20: answers(one, CALIBRATED, at))
        lines.append(f"| {step / 20:.2f} | {refused:.1%} | {answered:.1%} |")
    lines += ["\n| cosine | refused | answered |", "|---|---|---|"]
    for step in range(4, 13):
        refused, answered = mistakes(test, lambda one, at=step / 20: answers_before(one, at))
        lines.append(f"| {step / 20:.2f} | {refused:.1%} | {answered:.1%} |")
    return "\n".join(lines) + "\n"


def plot(asked: Sequence[Asked], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    test = [one for one in asked if not one.tuning]
    steps = [step / 100 for step in range(1, 100)]
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    curves = {
        "rule": [mistakes(test, lambda one, at=at: answers(one, CALIBRATED, at)) for at in steps],
        "cosine alone": [mistakes(test, lambda one, at=at: answers_before(one, at)) for at in steps],
    }
    for name, points in curves.items():
        axes.plot([refused for refused, _ in points], [answered for _, answered in points], label=name)
    axes.plot(*[[share] for share in mistakes(test, lambda one: answers(one, CALIBRATED, RELEVANT))], "o", label="used")
    axes.set_xlabel("answerable, refused")
    axes.set_ylabel("about something else, answered")
    axes.legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def measure() -> str:
    asked = asyncio.run(gather())
    REPORTS.mkdir(exist_ok=True)
    tuning = [one for one in asked if one.tuning]
    rule = fitted(tuning)
    page = report(asked, rule, threshold(tuning, rule))
    (REPORTS / "rag_relevance.md").write_text(page, encoding="utf-8")
    plot(asked, REPORTS / "rag_relevance.png")
    return page


if __name__ == "__main__":
    print(measure())
