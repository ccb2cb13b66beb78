"""A machine of its own: `python -m ...machine_process FOLDER DATABASE_URL INDEX` ingests until its input ends.

It shares no folder with others, only the database and the index.
"""

import asyncio
import sys
from pathlib import Path

from apps.operations.database import Database
from apps.rag.library import Library
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS


async def run(folder: Path, url: str, index: str) -> None:
    database = Database(url, folder, 60.0)
    await database.start()
    library = Library(folder, HashingEmbedder(seconds=0.02), uri=index, limits=LIMITS, database=database)
    await library.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await library.aclose()
    await database.aclose()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
