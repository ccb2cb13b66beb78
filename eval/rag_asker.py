"""Asks a collection of eval.rag_speed what comes on its standard input, by the code of the folder it is started in.

A file to be run by its path, since other checkouts do not have it: it uses only what they have, too. A line in is
JSON, ``[kind, [query, ...]]``; a line out has the milliseconds and the CPU's milliseconds of each query. The queries of
the kind "ingestion" are paths of documents to be taken in.
"""

import asyncio
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from apps.rag.records import Upload

FILTER = {"year": {"$gte": 2010}, "team": {"$ne": "team 3"}}
OPTIONS: dict[str, dict[str, Any]] = {
    "hybrid": {},
    "filtered": {"filter": FILTER},
    "vector": {"mode": "vector"},
    "text": {"mode": "text"},
}
EMBEDDING = "embedding"
INGESTION = "ingestion"


async def answer(library: Any, embedder: Any, kind: str, query: str) -> None:
    if kind == EMBEDDING:
        await embedder.embed([query])
    elif kind == INGESTION:
        job = await library.submit("speed", "pages", [_upload(Path(query))])
        states = [state async for state in library.watch("speed", job.id)]
        if states[-1].status != "done":
            raise RuntimeError(f"{query} was not ingested as it should")
    else:
        await library.search("speed", "synthetic", query, **OPTIONS[kind])


def _upload(path: Path) -> Upload:
    return Upload(path.name, path.read_bytes())


async def main(folder: Path) -> None:
    # where the two are in other checkouts
    speed: Any = importlib.import_module("eval.rag_speed")
    embedder = speed.MiniLM()
    library = speed.Library(folder, embedder, tokenizer=embedder.tokenizer_file)
    is_started = False
    for line in sys.stdin:
        kind, queries = json.loads(line)
        if kind == INGESTION and not is_started:
            await library.start()
            is_started = True
        taken: list[tuple[float, float]] = []
        for query in queries:
            started, used = time.perf_counter(), time.process_time()
            await answer(library, embedder, kind, query)
            taken.append((1000 * (time.perf_counter() - started), 1000 * (time.process_time() - used)))
        print(json.dumps(taken), flush=True)
    await library.aclose()
    await embedder.aclose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
