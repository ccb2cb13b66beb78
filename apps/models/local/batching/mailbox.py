"""The way of pieces from the inference thread to one reader on an event loop. The writer never waits.

Instead the scheduler asks ``full`` and leaves a slow reader's answer out of its steps until there is room again.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from apps.core.errors import AppError
from apps.models.local.engine import Piece

CAPACITY = 256


class Mailbox:
    """``on_room`` is called from the loop when a full box has room again."""

    def __init__(self, on_room: Callable[[], None], capacity: int = CAPACITY) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[Piece | AppError] = deque()
        self._arrived = asyncio.Event()
        self._on_room = on_room
        self._capacity = capacity

    @property
    def full(self) -> bool:
        return len(self._pieces) >= self._capacity

    def put(self, piece: Piece | AppError) -> None:
        """From the inference thread. An error is raised to the reader, in its turn."""
        self._pieces.append(piece)
        if not self._arrived.is_set():
            # a closed loop refuses: nobody reads any more, and whoever closed it closes the engine
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def get(self) -> Piece:
        while not self._pieces:
            self._arrived.clear()
            # a piece may have come between the look and the clear
            if self._pieces:
                break
            await self._arrived.wait()
        was_full = self.full
        piece = self._pieces.popleft()
        if was_full:
            self._on_room()
        if isinstance(piece, AppError):
            raise piece
        return piece
