"""The seam inside the local model: what runs a checkpoint, whichever way it does so."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from apps.core.messages import JsonObject


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token. ``temperature`` 0 is greedy; ``seed`` None draws a fresh one a call."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of one or more tokens, whole characters only; the last piece has the ``finish_reason``.

    ``completion_tokens`` counts all tokens so far; ``cached_tokens`` of the prompt were not computed again.
    """

    text: str
    completion_tokens: int
    finish_reason: str | None = None
    cached_tokens: int = 0


class Engine(Protocol):
    """Runs one checkpoint. ``context_length`` and prompts are counted in tokens.

    Closing the generator ends the generation at the next token at the latest and frees its slot.
    """

    context_length: int

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Piece, None]: ...

    def describe(self) -> JsonObject:
        """What `/ready` and the log say of it: engine, precision, kernel path, threads, memory."""

    def close(self) -> None:
        """End every generation and the threads behind them."""
