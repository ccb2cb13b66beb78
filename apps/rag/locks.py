"""A lock between processes on one folder, held by the operating system: it ends with its holder, however that ends.

Not a lease: a holder that merely sleeps keeps it.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

RETRY_SECONDS = 0.02


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[None, None]:
    """Waits for its turn without a thread."""
    file = _opened(path)
    try:
        while not _take(file):  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(RETRY_SECONDS)
        yield
    finally:
        file.close()


def _opened(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


if sys.platform == "win32":
    import msvcrt

    def _take(file: BinaryIO) -> bool:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _take(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
