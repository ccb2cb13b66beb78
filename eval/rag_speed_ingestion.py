"""How fast PDFs become passages, against the embedder's own batched speed on the same passages in the same run."""

import resource
import tempfile
import time
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from apps.local.encoders.embedder import MiniLM
from apps.rag.library import Library
from apps.rag.parsing.formats import sections_of
from apps.rag.parsing.sandbox import Sandbox
from apps.rag.parsing.sections import Reading
from apps.rag.records import Limits, Upload
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


@dataclass(frozen=True, slots=True)
class ParsingSpeed:
    """Of the parsing process alone: bytes in, passages out. ``rss_mb`` is the most that it ever had.

    ``read_pages_per_second`` is the parser's part of it; the rest is the splitter's, which counts tokens.
    """

    pages: int
    passages: int
    seconds: float
    pages_per_second: float
    read_pages_per_second: float
    rss_mb: float


async def measure_parsing(pages: int) -> ParsingSpeed:
    """PDFs through the process that reads every file, its start left out."""
    embedder, parsed = MiniLM(), list[dict[str, Any]]()
    sandbox = Sandbox(Limits(), embedder.tokenizer_file)
    with tempfile.TemporaryDirectory() as folder:
        files: list[Path] = []
        for name, content in pdfs(pages):
            files.append(Path(folder) / name)
            files[-1].write_bytes(content)
        await sandbox.parse(files[0], "warm.pdf", lambda event: None)
        started = time.monotonic()
        for path in files:
            await sandbox.parse(path, path.name, parsed.append)
        seconds = time.monotonic() - started
        read = _read_pages_per_second(files)
    await sandbox.aclose()
    await embedder.aclose()
    # of children that have ended: kilobytes on Linux
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    passages = sum("chunk" in event for event in parsed)
    return ParsingSpeed(pages, passages, round(seconds, 2), round(pages / seconds, 1), read, round(peak / 1024, 1))


def _read_pages_per_second(files: list[Path]) -> float:
    pages, started = 0, time.monotonic()
    for path in files:
        with path.open("rb") as file:
            pages += sum(1 for _ in sections_of(file, path.name, Reading())[1])
    return round(pages / (time.monotonic() - started), 1)


def pdfs(pages: int, pages_a_file: int = PAGES_A_FILE) -> list[tuple[str, bytes]]:
    """Names and bytes of files; no page is like another."""
    lines = [line.rstrip()[:95] for topic in topics.values() for line in topic.split("\n") if line.strip()]
    safe = [line.encode("ascii", "replace").decode().translate({40: "[", 41: "]", 92: "/"}) for line in lines]
    files: list[tuple[str, bytes]] = []
    for first in range(0, pages, pages_a_file):
        texts: list[str] = []
        for number in range(first, min(first + pages_a_file, pages)):
            start = number * LINES_A_PAGE % len(safe)
            texts.append("\n".join([f"Page {number}", *islice(safe + safe, start, start + LINES_A_PAGE)]))
        files.append((f"{first:04}.pdf", pdf(texts)))
    return files


def uploads(pages: int) -> list[Upload]:
    return [Upload(name, content) for name, content in pdfs(pages)]


async def measure_ingestion(pages: int) -> IngestionSpeed:
    embedder = MiniLM()
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder), embedder, tokenizer=embedder.tokenizer_file)
        await library.start()
        # the model is loaded and the parser's process is there, as in a server that has been running
        await _ingested(library, [Upload("warm.txt", b"warm")])
        await _ingested(library, uploads(PAGES_A_FILE))
        texts = await _texts(library)
        before = await _alone(embedder, texts)
        started = time.monotonic()
        job_pages, passages = await _ingested(library, uploads(pages + PAGES_A_FILE)[1:])
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
