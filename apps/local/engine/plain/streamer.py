"""Streams the tokens of a running `generate` to the event loop, by a subclass of transformers' TextIteratorStreamer."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import TextIteratorStreamer

from apps.core.errors import AppError
from apps.local.engine.decoding import OutputProcessor
from apps.local.engine.port import EngineOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAPACITY = 256


class Cancelled(Exception):
    """The reader is gone: the generating thread must end. Never leaves the engine."""


class OutputStreamer(TextIteratorStreamer):  # type: ignore[misc]
    """A TextIteratorStreamer for one answer, read with ``async for``; made on the loop that reads it.

    The original has three faults in a service. It holds text back to the next blank and decodes the whole line again
    for each token: here an OutputProcessor decodes, a character at a time and with stop strings. Its queue has no
    bound: here ``generate`` waits while ``capacity`` outputs are unread. It blocks its reader, for ever where
    ``generate`` dies and no ``timeout`` was set: here the reader awaits, and ``end`` always comes, with the error.
    """

    def __init__(self, output: OutputProcessor, capacity: int = CAPACITY) -> None:
        super().__init__(tokenizer=None, skip_prompt=True)
        self.next_tokens_are_prompt = True
        self.text_queue: queue.Queue[EngineOutput] = queue.Queue(capacity)
        self.cancelled = threading.Event()
        self.ended = asyncio.Event()
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._error: AppError | None = None
        self._chosen: tuple[int, NDArray[Any], bool] | None = None

    @property
    def stopped(self) -> bool:
        """The generating thread is to stop: the answer is whole, or its reader is gone."""
        return self._output.finished or self.cancelled.is_set()

    def chosen(self, token: int, logits: "NDArray[Any]", complete: bool) -> None:
        """What ``put`` will be called with next, and the row of logits it was chosen from."""
        self._chosen = (token, logits, complete)

    def put(self, value: Any) -> None:
        """Called by ``generate`` with the prompt, then with each token. Raises Cancelled once the reader is gone."""
        if self.next_tokens_are_prompt:
            self.next_tokens_are_prompt = False
            return
        if self._chosen is None or self._output.finished:
            return
        output = self._output.take(*self._chosen)
        self._chosen = None
        if output is not None:
            self.send(output)

    def send(self, output: EngineOutput) -> None:
        """Waits for room. Raises Cancelled once the reader is gone."""
        if self.cancelled.is_set():
            raise Cancelled
        self.text_queue.put(output)
        self._call(self._arrived.set)

    def end(self) -> None:
        """Called by ``generate``, which does so only where nothing went wrong: the thread calls ``finish`` instead."""

    def finish(self, error: AppError | None = None) -> None:
        """From the thread, always and last; ``error`` is raised to the reader behind the outputs before it."""
        self._error = error
        self._call(self.ended.set)
        self._call(self._arrived.set)

    def cancel(self) -> None:
        """From any thread: the writer stops at its next step, also where it waits for room."""
        self.cancelled.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self.text_queue.get_nowait()

    def __aiter__(self) -> "OutputStreamer":
        return self

    async def __anext__(self) -> EngineOutput:
        while True:
            with contextlib.suppress(queue.Empty):
                return self.text_queue.get_nowait()
            if self.ended.is_set():
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._arrived.clear()
            # an output may have come between the look and the clear
            if self.text_queue.empty() and not self.ended.is_set():
                await self._arrived.wait()

    def _call(self, function: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            # the loop is closed: there is no reader any more
            self.cancelled.set()
