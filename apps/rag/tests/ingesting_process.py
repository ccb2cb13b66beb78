"""A process that takes in and ingests documents until it is killed: `python -m ...ingesting_process FOLDER FIRST`.

It says "try NAME NUMBER" before each submission and "ack NAME NUMBER" after it. Document NUMBER is a version of one of
few names, so that versions replace each other all the time.
"""

import asyncio
import itertools
import sys
from pathlib import Path

from apps.rag.library import Library
from apps.rag.records import Limits, Upload
from apps.rag.tests.hashing_embedder import HashingEmbedder

NAMES = 7
LIMITS = Limits(chunk_tokens=40, lease_seconds=1)
AHEAD = 6


def document(number: int) -> tuple[str, bytes]:
    """Several passages; every third one is made of the bytes that an earlier one had."""
    version = number - number % 3 if number % 3 == 2 else number
    text = "\n\n".join(f"Part {part} of version {version}. " + "It says a few words more. " * 9 for part in range(6))
    return f"name {number % NAMES}.txt", text.encode()


async def run(folder: Path, first: int) -> None:
    library = Library(folder, HashingEmbedder(seconds=0.01), limits=LIMITS)
    await library.start()
    print("ready", flush=True)
    for number in itertools.count(first):
        name, content = document(number)
        print("try", number, flush=True)
        job = await library.submit("ann", "docs", [Upload(name, content)])
        print("ack", number, flush=True)
        if number % AHEAD == 0:
            async for _ in library.watch("ann", job.id):
                pass


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
