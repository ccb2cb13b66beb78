"""The way of pieces from a generating thread to the event loop: ordered, bounded, and ended from either side.

Tokens of a running `generate` as pieces of an answer.

Stands where transformers' TextIteratorStreamer would, with its two methods: that one holds text back to the next
blank, decodes the whole line again for each token, and its queue has no bound.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from apps.local.detokenizer import Detokenizer, StopStrings
from apps.local.engine.port import Piece, Sampling, masked
from apps.local.logprobs import LogprobRecorder, PendingLogprobs

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


class PieceStreamer:
    """A streamer of transformers for one answer: ``put`` gets the prompt first, then each token.

    An engine shows it each row of logits by ``see`` and chooses from what that returns.
    ``stopped`` turns true at the end of the answer. The last piece has the finish reason: `stop` for an end token, a
    stop string or the end of the grammar, `length` where ``max_tokens`` ran out. All generated tokens are counted, the
    end token among them. ``token_bytes`` spells tokens and is needed where log probabilities are asked for.
    """

    def __init__(
        self,
        send: Callable[[Piece], None],
        decode: Callable[[Sequence[int]], str],
        end_tokens: frozenset[int],
        sampling: Sampling,
        token_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self._send = send
        self._end_tokens = end_tokens
        self._max_tokens = sampling.max_tokens
        self._detokenizer = Detokenizer(decode)
        self._stops = StopStrings(sampling.stop)
        self._tokens = 0
        self._constraint = sampling.constraint
        self._recorder: LogprobRecorder | None = None
        if sampling.top_logprobs is not None and token_bytes is not None:
            self._recorder = LogprobRecorder(sampling.top_logprobs, token_bytes)
        self._logprobs = PendingLogprobs()
        self._prompt_seen = False
        self.stopped = False

    def see(self, logits: Any) -> Any:
        """The logits to choose the next token from, a float row [vocabulary]; ``logits`` itself is not changed.

        Raises InvalidValue where the call's grammar grew beyond its limits.
        """
        if self._recorder is not None:
            self._recorder.see(logits)
        if self._constraint is None:
            return logits
        return masked(logits, self._constraint.allowed(self._max_tokens - self._tokens))

    def put(self, value: Any) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for token in value.flatten().tolist():
            self._take(token)

    def end(self) -> None:
        """`generate` is through; the last token has already ended the answer."""

    def _take(self, token: int) -> None:
        if self.stopped:
            return
        self._tokens += 1
        if token in self._end_tokens:
            self._finish("", "stop")
            return
        if self._recorder is not None:
            self._logprobs.add([self._recorder.entry(token)])
        if self._constraint is not None:
            self._constraint.advance(token)
        text = self._stops.feed(self._detokenizer.feed(token))
        if self._stops.found or (self._constraint is not None and self._constraint.finished):
            self._finish(text, "stop")
        elif self._tokens >= self._max_tokens:
            self._finish(text, "length")
        elif text:
            self._send_piece(text)

    def _finish(self, text: str, reason: str) -> None:
        if not self._stops.found:
            text += self._stops.feed(self._detokenizer.flush())
            # the rest of the text may complete a stop string that the last token left open
            reason = "stop" if self._stops.found else reason
            text += self._stops.flush()
        self.stopped = True
        self._send_piece(text, reason)

    def _send_piece(self, text: str, reason: str | None = None) -> None:
        logprobs = self._logprobs.take(text)
        if reason is not None and not self._stops.found:
            logprobs += self._logprobs.rest()
        self._send(Piece(text, self._tokens, reason, logprobs=logprobs))
