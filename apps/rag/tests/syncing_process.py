"""A process that brings a collection in step with a folder, until it is killed: `python -m ... DATA FOLDER`."""

import asyncio
import sys
from pathlib import Path

from apps.rag.folder_sync import FolderSync
from apps.rag.library import Library
from apps.rag.records import Limits
from apps.rag.tests.hashing_embedder import HashingEmbedder

LIMITS = Limits(chunk_tokens=40, lease_seconds=1)


async def run(data: Path, folder: Path) -> None:
    library = Library(data, HashingEmbedder(seconds=0.02), limits=LIMITS)
    await library.start()
    print("ready", flush=True)
    await FolderSync(library, "ann", "docs", folder).run()
    await library.aclose()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2])))
