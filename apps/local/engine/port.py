"""The seams inside the local model: Engine runs a checkpoint, Constraint says which tokens may come next.

The errors say why the batching engine, its kernels or its draft model cannot be had; for the first two something else
serves. Beside them stands the number format that an engine computes in, as the setting, the size and the CPU choose it.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from apps.core.deltas import TokenLogprob
from apps.core.messages import JsonObject

if TYPE_CHECKING:
    from numpy.typing import NDArray


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

    def forced(self) -> Sequence[int]:
        """Tokens that the grammar leaves no other text than; a guess, since a text may be cut into tokens otherwise."""

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens``, from the first on, the grammar allows next."""

    def advance(self, token: int) -> None:
        """Moves past ``token``. Raises InternalError for one that was not allowed."""


class Prescription(Protocol):
    """Tokens that must come in one answer, whatever is likeliest. Belongs to one answer, as a Constraint does."""

    def due(self) -> int | None:
        """The token that comes next, unless the answer's grammar has no place for it; None where any may."""

    def advance(self, token: int) -> None:
        """Moves past ``token``."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer's tokens are chosen, and when it ends.

    ``temperature`` 0 is greedy; ``top_k`` 0, ``min_p`` 0 and ``top_p`` 1 keep all tokens. ``seed`` None draws a fresh
    one a call. The penalties are those of vLLM: ``repetition_penalty`` of prompt and answer, the other two of the
    answer. No end token comes, and no stop string counts, before ``min_tokens``. With ``ignore_eos`` no end token comes
    at all. ``stop_tokens`` end this answer as end tokens do. Where there are ``allowed_tokens`` no other comes; the
    last token of one of ``bad_sequences`` does not come behind the others of it.

    ``constraint`` and ``thinking``, which ends thoughts, are the state of one answer: a Sampling that has one of them
    serves one call. ``top_logprobs`` None asks for
    no log probabilities, a number for those of each token and of that many alternatives, which ``scored_tokens``
    replace; ``prompt_logprobs`` likewise for the prompt's tokens. With ``end_logprob`` the end token has its own too.
    ``max_tokens`` 0 computes the prompt only.

    What was computed for a ``tenant`` is used again for the same one only; ``keep`` False keeps nothing of it on disk.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    thinking: Prescription | None = None
    top_logprobs: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_tokens: frozenset[int] = frozenset()
    allowed_tokens: tuple[int, ...] = ()
    bad_sequences: tuple[tuple[int, ...], ...] = ()
    scored_tokens: tuple[int, ...] = ()
    prompt_logprobs: int | None = None
    end_logprob: bool = False
    tenant: str = ""
    keep: bool = True


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """The text of one or more tokens, whole characters only; the last output has the ``finish_reason``.

    ``completion_tokens`` counts all tokens so far; ``cached_tokens`` of the prompt were not computed again.
    ``logprobs`` are of the tokens whose text has become certain; of the end token where ``end_logprob`` asks for it.
    ``prompt_logprobs`` come with the first output, where they were asked for. ``tokens`` are all since the last output,
    the end token among them. ``stopped_by`` is the stop string or stop token of the caller's that ended the answer.
    """

    text: str
    completion_tokens: int
    finish_reason: str | None = None
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    tokens: tuple[int, ...] = ()
    stopped_by: str | int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How an engine gets on: ``steps`` that it has computed so far, and the seconds that the one under way has taken.

    ``stalled`` is 0 where it has nothing to compute: a long step is a long time, an idle engine is none.
    """

    steps: int
    stalled: float


class Engine(Protocol):
    """Runs one checkpoint. ``context_length`` and prompts are counted in tokens.

    Closing the generator ends the generation at the next token at the latest and frees its slot.
    """

    context_length: int

    @property
    def failure(self) -> str | None:
        """Why it will never answer again, in words for an operator; None while it can."""

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[EngineOutput, None]:
        """Raises ModelUnavailable where the engine closes meanwhile, InternalError where the model fails."""

    def progress(self) -> Progress:
        """As of now. Called on the event loop: reads attributes, does not wait."""

    def describe(self) -> JsonObject:
        """What `/ready` and the log say of it: engine, precision, kernel path, threads, memory."""

    def close(self) -> None:
        """End every generation and the threads behind them."""


class UnsupportedModel(Exception):
    """The checkpoint is not of the shape that this engine runs; the message says what differs."""


class NoKernel(Exception):
    """The kernels cannot be used on this machine; the message says what is missing."""


class UnusableDraft(Exception):
    """The model that is to draft cannot; the message says why."""


Precision = Literal["auto", "bf16", "fp32", "int8", "int4"]
# in fp32 a 1.1-billion-parameter model takes 4.4 GB, over what a small machine has to give
LARGEST_FP32_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class ChosenPrecision:
    precision: Literal["bf16", "fp32"]
    reason: str


def choose_precision(requested: Precision, parameters: int, *, native_bf16: bool) -> ChosenPrecision:
    """``parameters`` is the model's number of weights; ``native_bf16`` whether the CPU multiplies bf16 itself."""
    if requested == "bf16" or requested == "fp32":
        return ChosenPrecision(requested, f"LOCAL_PRECISION={requested}")
    chosen = _automatic(parameters, native_bf16=native_bf16)
    if requested == "auto":
        return chosen
    return ChosenPrecision(
        chosen.precision,
        f"LOCAL_PRECISION={requested} is not served by the plain engine, which computes in bf16 or fp32; "
        f"{chosen.reason}",
    )


def _automatic(parameters: int, *, native_bf16: bool) -> ChosenPrecision:
    if native_bf16:
        return ChosenPrecision("bf16", "auto: this CPU computes in bf16 itself")
    if parameters * 4 <= LARGEST_FP32_BYTES:
        return ChosenPrecision("fp32", "auto: this CPU has no bf16 arithmetic, and the model is small enough for fp32")
    return ChosenPrecision("bf16", f"auto: {parameters * 4 / 1e9:.1f} GB in fp32 is too much, bf16 takes half of it")
