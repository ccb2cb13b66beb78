"""A lock between processes on one folder, held by the operating system: it ends with its holder, however that ends.

Not a lease: a holder that merely sleeps keeps it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from apps.core.file_lock import try_lock

RETRY_SECONDS = 0.02


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[None, None]:
    """Waits for its turn without a thread."""
    file = _opened(path)
    try:
        while not try_lock(file):  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(RETRY_SECONDS)
        yield
    finally:
        file.close()


def _opened(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")
