"""How fast collections of documents are: `python -m eval.rag_speed [latency ROWS...] [ingestion|parsing PAGES]`.

Latency: collections of so many passages, with synthetic vectors in clusters and texts of words as frequent as words
are; a fresh process asks, each question embedded by MiniLM. Ingestion: PDFs of the documentation that ships with
Python, against the embedder's own speed on the same passages in the same run; parsing: the process that reads them
alone. One line of JSON a measurement.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.local.encoders.embedder import MINILM, MINILM_DIMENSIONS, MiniLM
from apps.rag.index.database import Database
from apps.rag.index.rows import schema, table_of, widened
from apps.rag.index.writing import ensure_text_index, tend
from apps.rag.library import Library
from apps.rag.parsing.sections import Chunk
from apps.rag.records import Document, MetadataValue
from eval.rag_speed_ingestion import measure_ingestion, measure_parsing

WORDS = 30_000
WORDS_A_PASSAGE = 120
CLUSTERS = 500
PASSAGES_A_DOCUMENT = 20
ROWS_A_COMMIT = 10_000
QUERIES = 200
WARM = 10
DEFAULT_ROWS = (1_000, 10_000, 100_000)
DEFAULT_PAGES = 1_000

Ask = Callable[[str], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds; ``rss_growth_mb`` from just before the first question, with the model loaded, to the last."""

    passages: int
    build_seconds: float
    hybrid_p50: float
    hybrid_p99: float
    filtered_p50: float
    filtered_p99: float
    vector_p50: float
    text_p50: float
    embedding_p50: float
    rss_growth_mb: float


class Words:
    """A made-up vocabulary, used as unevenly as a language is. The same in every process."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(7)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        lengths = self._random.integers(3, 11, WORDS)
        self._words = np.array(["".join(self._random.choice(letters, length)) for length in lengths])
        weights = 1 / np.arange(1, WORDS + 1)
        self._shares = weights / weights.sum()

    def texts(self, count: int, length: int) -> list[str]:
        return [" ".join(row) for row in self._words[self._random.choice(WORDS, (count, length), p=self._shares)]]


class Vectors:
    """Unit vectors around centres."""

    def __init__(self, dimensions: int) -> None:
        self._random = np.random.default_rng(11)
        self._centres = self._random.standard_normal((CLUSTERS, dimensions)).astype("float32")

    def some(self, count: int) -> NDArray[np.float32]:
        near = self._centres[self._random.integers(0, CLUSTERS, count)]
        vectors = 0.7 * near + self._random.standard_normal(near.shape).astype("float32")
        unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")
        return unit


async def build(folder: Path, rows: int, model: str, dimensions: int) -> float:
    """The collection ``synthetic`` of the tenant ``speed``; how many seconds it took."""
    import pyarrow as pa

    started, words, vectors = time.monotonic(), Words(), Vectors(dimensions)
    database = Database(str(folder / "index"))
    table = (await database.making("speed", "synthetic", model, dimensions)).table
    await ensure_text_index(table)
    columns = await widened(table, _document(0).metadata)
    for first in range(0, rows, ROWS_A_COMMIT):
        count = min(ROWS_A_COMMIT, rows - first)
        texts, made = words.texts(count, WORDS_A_PASSAGE), vectors.some(count)
        parts = [
            table_of(
                _document((first + start) // PASSAGES_A_DOCUMENT),
                [Chunk(text, 0, len(text), 1, ()) for text in texts[start : start + PASSAGES_A_DOCUMENT]],
                made[start : start + PASSAGES_A_DOCUMENT],
                schema(model, dimensions, columns.names),
            )
            for start in range(0, count, PASSAGES_A_DOCUMENT)
        ]
        await table.add(pa.concat_tables(parts))
    await tend(table)
    await database.aclose()
    return time.monotonic() - started


def _document(number: int) -> Document:
    name, metadata = f"{number}.txt", dict[str, MetadataValue](year=2000 + number % 25, team=f"team {number % 7}")
    return Document(f"{number:064x}", name, (name,), "text", 1, 0, PASSAGES_A_DOCUMENT, metadata, 0.0)


async def ask(folder: Path, rows: int, build_seconds: float) -> Latency:
    """In a process that has not built the collection."""
    embedder = MiniLM()
    library = Library(folder, embedder)
    await embedder.embed(["warm"])
    queries = Words().texts(QUERIES + WARM, 7)

    async def embedding(text: str) -> Any:
        return await embedder.embed([text])

    def searching(**options: Any) -> Ask:
        return lambda text: library.search("speed", "synthetic", text, **options)

    alone = await _times(embedding, queries)
    before = rss_mb()
    hybrid = await _times(searching(), queries)
    filtered = await _times(searching(filter={"year": {"$gte": 2010}, "team": {"$ne": "team 3"}}), queries)
    vector, text = await _times(searching(mode="vector"), queries), await _times(searching(mode="text"), queries)
    grown = rss_mb() - before
    await library.aclose()
    await embedder.aclose()
    figures = [*_both(hybrid), *_both(filtered), _at(vector, 50), _at(text, 50), _at(alone, 50), grown]
    return Latency(rows, round(build_seconds, 1), *(round(figure, 1) for figure in figures))


async def _times(call: Ask, queries: Sequence[str]) -> list[float]:
    """Milliseconds of each but the first few."""
    taken: list[float] = []
    for query in queries:
        started = time.perf_counter()
        await call(query)
        taken.append(1000 * (time.perf_counter() - started))
    return taken[WARM:]


def _both(times: Sequence[float]) -> tuple[float, float]:
    return _at(times, 50), _at(times, 99)


def _at(times: Sequence[float], percentile: float) -> float:
    return float(np.percentile(times, percentile))


def rss_mb() -> float:
    """Of this process, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def measure_latency(rows: int) -> Latency:
    with tempfile.TemporaryDirectory() as folder:
        built = asyncio.run(build(Path(folder), rows, MINILM, MINILM_DIMENSIONS))
        command = [sys.executable, "-m", "eval.rag_speed", "ask", folder, str(rows), str(built)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603 - our own module
        return Latency(**json.loads(done.stdout))


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["ask"]:
        figures = asyncio.run(ask(Path(arguments[1]), int(arguments[2]), float(arguments[3])))
        print(json.dumps(asdict(figures)))
        return
    if arguments[:1] == ["parsing"]:
        print(json.dumps(asdict(asyncio.run(measure_parsing(int(arguments[1]))))), flush=True)
        return
    if arguments[:1] != ["ingestion"]:
        for rows in map(int, arguments[1:] or DEFAULT_ROWS):
            print(json.dumps(asdict(measure_latency(rows))), flush=True)
    if arguments[:1] != ["latency"]:
        pages = int(arguments[1]) if arguments[1:] else DEFAULT_PAGES
        print(json.dumps(asdict(asyncio.run(measure_ingestion(pages)))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
