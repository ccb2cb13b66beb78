"""Runs the questions through the library: what each half finds, and how similar the best passage is."""

import time
from dataclasses import dataclass
from pathlib import Path

from apps.core.ports import Embedder
from apps.rag.library import Library
from apps.rag.records import Limits, SearchMode, Upload
from apps.rag.search import Ranking
from eval.rag_corpus import markdown
from eval.rag_measures import rank_of
from eval.rag_questions import Question, QuestionSet

TENANT, COLLECTION = "eval", "stdlib"
DEEP = 50


@dataclass(frozen=True, slots=True)
class Ingested:
    documents: int
    passages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Found:
    """The passages' ids of each half, best first, the entry of each, and the best cosine of those that are used."""

    question: Question
    vector: list[str]
    text: list[str]
    entries: dict[str, str]
    cosine: float


def open_library(folder: Path, embedder: Embedder, tokenizer: Path | None, ranking: Ranking) -> Library:
    return Library(folder, embedder, tokenizer=tokenizer, limits=Limits(), ranking=ranking)


async def ingest(library: Library, questions: QuestionSet) -> Ingested:
    """Submit all the files at once and wait."""
    uploads = [Upload(name, markdown(entries).encode()) for name, entries in questions.files.items()]
    started = time.perf_counter()
    job = await library.submit(TENANT, COLLECTION, uploads)
    async for state in library.watch(TENANT, job.id):
        job = state
    if job.status != "done":
        raise RuntimeError(f"ingestion failed: {[file.error for file in job.files if file.error]}")
    return Ingested(len(job.files), job.passages, time.perf_counter() - started)


async def ask(library: Library, question: Question) -> Found:
    entries: dict[str, str] = {}
    ids: dict[SearchMode, list[str]] = {}
    modes: tuple[SearchMode, ...] = ("vector", "text")
    for mode in modes:
        found = await library.search(TENANT, COLLECTION, question.text, top_k=DEEP, mode=mode)
        ids[mode] = [passage.id for passage in found]
        entries |= {passage.id: passage.headings[-1] if passage.headings else "" for passage in found}
    used = await library.search(TENANT, COLLECTION, question.text)
    return Found(
        question, ids["vector"], ids["text"], entries, max((passage.vector_score or 0.0 for passage in used), default=0)
    )


async def own_ranking(library: Library, found: Found) -> int | None:
    """The answer's rank in the library's own hybrid search."""
    # no more than this, or the library would look deeper than its ranking says
    passages = await library.search(TENANT, COLLECTION, found.question.text, top_k=Ranking().candidates // 4)
    return rank_of(found.question.targets, (passage.headings[-1] if passage.headings else "" for passage in passages))
