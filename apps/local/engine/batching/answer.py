"""One answer on its way through the engine: its tokens, its cache, and the outputs that wait for its reader."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from apps.core.errors import AppError
from apps.local.engine.batching.prefix_cache import Held, StoredPrefix
from apps.local.engine.decoding import LogprobRecorder, OutputProcessor, Sampler
from apps.local.engine.port import EngineOutput, Sampling
from apps.local.tokenizer import HubTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAPACITY = 256


class Mailbox:
    """Carries outputs from the inference thread to one reader on an event loop. The writer never waits.

    The scheduler leaves the answer of a reader whose mailbox is ``full`` out of its steps until there is room again;
    ``on_room`` is called from the loop then.
    """

    def __init__(self, on_room: Callable[[], None], capacity: int = CAPACITY) -> None:
        self._loop = asyncio.get_running_loop()
        self._outputs: deque[EngineOutput | AppError] = deque()
        self._arrived = asyncio.Event()
        self._on_room = on_room
        self._capacity = capacity

    @property
    def full(self) -> bool:
        return len(self._outputs) >= self._capacity

    @property
    def room(self) -> int:
        """How many more outputs it takes before it is full."""
        return self._capacity - len(self._outputs)

    def put(self, output: EngineOutput | AppError) -> None:
        """From the inference thread. An error is raised to the reader, in its turn."""
        self._outputs.append(output)
        if not self._arrived.is_set():
            # a closed loop refuses: there is no reader any more, and what closed it closes the engine
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def get(self) -> EngineOutput:
        while not self._outputs:
            self._arrived.clear()
            # an output may have come between the look and the clear
            if self._outputs:
                break
            await self._arrived.wait()
        was_full = self.full
        output = self._outputs.popleft()
        if was_full:
            self._on_room()
        if isinstance(output, AppError):
            raise output
        return output


class Answer:
    """``tokens`` are the prompt's and the answer's. What of them is not in ``held`` yet is pending.

    ``wants_prompt_logits``: every row of the prompt is to be computed, and its logits shown to ``see_prompt``.
    """

    def __init__(self, prompt: Sequence[int], sampling: Sampling, tokenizer: HubTokenizer, mailbox: Mailbox) -> None:
        self.tokens = list(prompt)
        self.mailbox = mailbox
        self.held: Held | None = None
        self.cancelled = False
        self.wants_prompt_logits = sampling.prompt_logprobs is not None
        self._sampling = sampling
        self.constraint = sampling.constraint
        self.tenant, self.keep = sampling.tenant, sampling.keep
        self.stored: StoredPrefix | None = None
        self._prompt_tokens = len(prompt)
        self._begun = False
        self._sampler = Sampler(sampling, prompt, tokenizer.end_tokens)
        self._output = OutputProcessor(tokenizer.decode, tokenizer.end_tokens, sampling, tokenizer.token_bytes)
        self._recorder = LogprobRecorder(sampling.prompt_logprobs or 0, tokenizer.token_bytes)

    @property
    def finished(self) -> bool:
        return self._output.finished

    @property
    def computed(self) -> int:
        return len(self.held.tokens) if self.held else 0

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def room(self) -> int:
        """How many more tokens it takes, and its reader's mailbox has room for."""
        return min(self._prompt_tokens + self._sampling.max_tokens - len(self.tokens), self.mailbox.room)

    def begin(self, held: Held) -> None:
        self.held = held
        if not self._begun:
            self._output.cached_tokens = len(held.tokens)
        self._begun = True

    def interrupt(self) -> None:
        """It has no cache any more and waits for another one; then what is missing is computed again, to the bit."""
        self.held = None
        if len(self.tokens) > self._prompt_tokens:
            self.wants_prompt_logits = False
        self._output.prompt_logprobs = ()

    def computed_rows(self, rows: int) -> None:
        """The next ``rows`` pending tokens are in the cache now."""
        assert self.held is not None  # noqa: S101 - for the type checker: only answers that have begun are computed
        start = len(self.held.tokens)
        self.held.tokens += self.tokens[start : start + rows]

    def see_prompt(self, start: int, rows: "NDArray[Any]") -> None:
        """The logits of the prompt's positions from ``start`` on."""
        following = self.tokens[start + 1 : start + 1 + len(rows)]
        known = [] if start else [self._recorder.first(self.tokens[0])]
        known += [self._recorder.entry(row, token, ranked=True) for row, token in zip(rows, following, strict=False)]
        self._output.prompt_logprobs += tuple(known)

    def take(self, logits: "NDArray[Any]") -> None:
        """Chooses the next token from its logits and sends what that makes certain."""
        if self._sampling.max_tokens == 0:
            self.mailbox.put(self._output.without_tokens())
            return
        token = self._sampler.choose(logits)
        self.tokens.append(token)
        output = self._output.take(token, logits, self._sampler.finished)
        if output is not None:
            self.mailbox.put(output)

    def fail(self, error: AppError) -> None:
        """Ends the answer with an error. What its cache holds may be the fault: it must not be used again."""
        if self.held is not None:
            self.held.tokens.clear()
        self.mailbox.put(error)
