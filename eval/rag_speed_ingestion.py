"""How fast PDFs become passages, against the embedder's own batched speed on the same passages in the same run."""

import tempfile
import time
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from pydoc_data.topics import topics

from apps.local.encoders.embedder import MiniLM
from apps.rag.library import Library
from apps.rag.records import Upload
from apps.tests.support.made_files import pdf

LINES_A_PAGE = 38
PAGES_A_FILE = 100
SAMPLE = 400
"""Passages embedded for the embedder's own speed, before and after."""


@dataclass(frozen=True, slots=True)
class IngestionSpeed:
    """``share`` is the passages a second of the ingestion by those of the embedder alone."""

    pages: int
    passages: int
    seconds: float
    pages_per_second: float
    passages_per_second: float
    embedder_passages_per_second: float
    share: float


def pdfs(pages: int) -> list[Upload]:
    """Files of a hundred pages; no page is like another."""
    lines = [line.rstrip()[:95] for topic in topics.values() for line in topic.split("\n") if line.strip()]
    safe = [line.encode("ascii", "replace").decode().translate({40: "[", 41: "]", 92: "/"}) for line in lines]
    uploads: list[Upload] = []
    for first in range(0, pages, PAGES_A_FILE):
        texts: list[str] = []
        for number in range(first, min(first + PAGES_A_FILE, pages)):
            start = number * LINES_A_PAGE % len(safe)
            texts.append("\n".join([f"Page {number}", *islice(safe + safe, start, start + LINES_A_PAGE)]))
        uploads.append(Upload(f"{first:04}.pdf", pdf(texts)))
    return uploads


async def measure_ingestion(pages: int) -> IngestionSpeed:
    embedder = MiniLM()
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder), embedder, tokenizer=embedder.tokenizer_file)
        await library.start()
        # the model is loaded and the parser's process is there, as in a server that has been running
        await _ingested(library, [Upload("warm.txt", b"warm")])
        await _ingested(library, pdfs(PAGES_A_FILE))
        texts = await _texts(library)
        before = await _alone(embedder, texts)
        started = time.monotonic()
        job_pages, passages = await _ingested(library, pdfs(pages + PAGES_A_FILE)[1:])
        seconds = time.monotonic() - started
        # machines are not equally fast all the time
        alone = (before + await _alone(embedder, texts)) / 2
        await library.aclose()
    await embedder.aclose()
    rate = passages / seconds
    return IngestionSpeed(
        job_pages,
        passages,
        round(seconds, 1),
        round(job_pages / seconds, 1),
        round(rate, 1),
        round(alone, 1),
        round(rate / alone, 3),
    )


async def _ingested(library: Library, uploads: list[Upload]) -> tuple[int, int]:
    job = await library.submit("speed", "pages", uploads)
    states = [state async for state in library.watch("speed", job.id)]
    if states[-1].status != "done" or any(a.percent > b.percent for a, b in pairwise(states)):
        raise RuntimeError("the documents were not ingested as they should")
    return states[-1].pages, states[-1].passages


async def _texts(library: Library) -> list[str]:
    """Passages as they are in the index."""
    documents = await library.documents("speed", "pages")
    found: list[str] = []
    for document in documents:
        found += [passage.text for passage in await library.passages("speed", "pages", document.id, limit=1000)]
    return found[:SAMPLE]


async def _alone(embedder: MiniLM, texts: list[str]) -> float:
    """Passages a second of one call."""
    started = time.monotonic()
    await embedder.embed(texts)
    return len(texts) / (time.monotonic() - started)
