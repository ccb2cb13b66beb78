"""One answer on its way through the engine: its tokens, its cache, and who reads it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from apps.core.errors import AppError
from apps.models.local.batching.choice import TokenChoice
from apps.models.local.batching.mailbox import Mailbox
from apps.models.local.batching.prefix_cache import Held
from apps.models.local.engine import Piece, Sampling
from apps.models.local.pieces import PieceStreamer
from apps.models.local.tokenizer import HubTokenizer


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
