"""The seam inside the local model: what runs a checkpoint, whichever way it does so."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from apps.core.deltas import TokenLogprob
from apps.core.messages import JsonObject
from apps.models.local.constraint import Constraint


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token. ``temperature`` 0 is greedy; ``seed`` None draws a fresh one a call.

    ``constraint`` is the state of one answer: a Sampling that has one serves one call. ``top_logprobs`` None asks for
    no log probabilities, a number for those of each token and of that many alternatives.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of one or more tokens, whole characters only; the last piece has the ``finish_reason``.

    ``completion_tokens`` counts all tokens so far; ``cached_tokens`` of the prompt were not computed again.
    ``logprobs`` are of the tokens whose text has become certain, the end token left out.
    """

    text: str
    completion_tokens: int
    finish_reason: str | None = None
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class Engine(Protocol):
    """Runs one checkpoint. ``context_length`` and prompts are counted in tokens.

    Closing the generator ends the generation at the next token at the latest and frees its slot.
    """

    context_length: int

    @property
    def failure(self) -> str | None:
        """Why it will never answer again, in words for an operator; None while it can."""

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Piece, None]: ...

    def describe(self) -> JsonObject:
        """What `/ready` and the log say of it: engine, precision, kernel path, threads, memory."""

    def close(self) -> None:
        """End every generation and the threads behind them."""
