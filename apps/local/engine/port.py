"""The seam between an engine and a grammar: which tokens may come next. Knows no grammar library and no engine.

The seam inside the local model: what runs a checkpoint, whichever way it does so.
"""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from apps.core.deltas import TokenLogprob
from apps.core.messages import JsonObject


class Constraint(Protocol):
    """The state of one answer in its grammar. Belongs to one answer; an engine uses it from one thread."""

    @property
    def finished(self) -> bool:
        """The grammar is complete and nothing can follow."""

    def allowed(self, remaining: int) -> "NDArray[Any]":
        """A bool for each token, at least one of them true. End tokens are allowed where the text may end.

        ``remaining`` tokens may be generated from here on: near its end only what leads to a complete text may be
        allowed. Raises InvalidValue where the grammar grew beyond its limits.
        """

    def advance(self, token: int) -> None:
        """``token`` was generated. Raises InternalError for one that was not allowed."""


def masked(logits: "NDArray[Any]", allowed: "NDArray[Any]") -> "NDArray[Any]":
    """A copy of one row of logits with minus infinity for every token that is not allowed.

    Rows are often padded beyond the tokenizer's vocabulary: what lies there is not allowed.
    """
    import numpy as np

    row = np.full_like(logits, float("-inf"))
    length = min(len(allowed), len(logits))
    np.copyto(row[:length], logits[:length], where=allowed[:length])
    return row


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
