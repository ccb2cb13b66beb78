"""The way of pieces from a generating thread to the event loop: ordered, bounded, and ended from either side."""

import asyncio
import threading
from collections import deque

from apps.models.local.engine import Piece

CAPACITY = 256


class Cancelled(Exception):
    """The reader is gone: the generating thread must end. Never leaves the engine."""


class Bridge:
    """One writer (a thread), one reader (the loop that made the bridge).

    At most ``capacity`` pieces wait for a slow reader; then the writer waits, and still notices ``cancel``.
    ``cancelled`` may be polled by the writer; ``ended`` tells the reader that the writer's thread is through.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.cancelled = threading.Event()
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(capacity)
        self._pieces: deque[Piece] = deque()
        self._arrived = asyncio.Event()
        self._error: BaseException | None = None

    def put(self, piece: Piece) -> None:
        """From the thread. Raises Cancelled as soon as nobody will read."""
        self._room.acquire()
        if self.cancelled.is_set():
            raise Cancelled
        self._pieces.append(piece)
        self._call(self._arrived.set)

    def end(self, error: BaseException | None = None) -> None:
        """From the thread, always and last: nothing more comes; ``error`` is raised to the reader."""
        self._error = error
        self._call(self.ended.set)
        self._call(self._arrived.set)

    def cancel(self) -> None:
        """From any thread: whoever writes stops at the next look, also where it waits for room."""
        self.cancelled.set()
        self._room.release()

    async def get(self) -> Piece | None:
        """The next piece; None after the last one. Raises the error that the writer ended with."""
        while not self._pieces:
            if self.ended.is_set():
                if self._error is not None:
                    raise self._error
                return None
            self._arrived.clear()
            await self._arrived.wait()
        piece = self._pieces.popleft()
        self._room.release()
        return piece

    def _call(self, function: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function)  # type: ignore[arg-type]
        except RuntimeError:
            # the loop is closed: nobody reads any more
            self.cancelled.set()
