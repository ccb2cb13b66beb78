"""The way of pieces from the inference thread to one reader on an event loop. The writer never waits.

Instead the scheduler asks ``full`` and leaves a slow reader's answer out of its steps until there is room again.

One answer on its way through the engine: its tokens, its cache, and who reads it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from apps.core.errors import AppError
from apps.local.engine.batching.prefix_cache import Held
from apps.local.engine.batching.sampler import TokenChoice
from apps.local.engine.plain.streaming import PieceStreamer
from apps.local.engine.port import Piece, Sampling
from apps.local.tokenizer import HubTokenizer

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


class Answer:
    """``tokens`` are the prompt's and the answer's. What of them is not in ``held`` yet is pending."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, tokenizer: HubTokenizer, mailbox: Mailbox) -> None:
        self.tokens = list(prompt)
        self.mailbox = mailbox
        self.held: Held | None = None
        self.cancelled = False
        self._cached = 0
        self._prompt_tokens = len(prompt)
        self._choice = TokenChoice(sampling)
        self._pieces = PieceStreamer(
            self._send, tokenizer.decode, tokenizer.end_tokens, sampling, tokenizer.token_bytes
        )
        # the first value that a streamer of transformers gets is the prompt
        self._pieces.put(np.empty(0))

    @property
    def finished(self) -> bool:
        return self._pieces.stopped

    @property
    def computed(self) -> int:
        return len(self.held.tokens) if self.held else 0

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    def begin(self, held: Held) -> None:
        self.held = held
        self._cached = len(held.tokens)

    def computed_rows(self, rows: int) -> None:
        """The next ``rows`` pending tokens are in the cache now."""
        assert self.held is not None  # noqa: S101 - for the type checker: only answers that have begun are computed
        start = len(self.held.tokens)
        self.held.tokens += self.tokens[start : start + rows]

    def take(self, logits: object) -> None:
        """Choose the next token from its logits and send its text."""
        token = self._choice.choose(self._pieces.see(logits))
        self.tokens.append(token)
        self._pieces.put(np.array([token]))

    def fail(self, error: AppError) -> None:
        self.mailbox.put(error)

    def _send(self, piece: Piece) -> None:
        self.mailbox.put(replace(piece, cached_tokens=self._cached) if self._cached else piece)
