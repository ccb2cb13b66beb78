"""The ports: what floors above ask of models, embedders and windows, the numbers that parts give for metrics.

``WrapperModel`` is the base of what adds behaviour to a model. A revision is what a model's answers depend on besides
the request: another revision, another answer.
"""

import hashlib
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

from apps.core.deltas import Delta
from apps.core.messages import ChatRequest, JsonObject, Message


@dataclass(frozen=True, slots=True)
class Observation:
    """One number of a metric, as of now; it has to be cheap to find out.

    ``name`` follows Prometheus' rules: ``genai_`` and the part, base units (seconds, bytes), ``_total`` at the end of
    what only grows (kind ``counter``) and of nothing else. ``labels`` are of a bounded set: names from the
    configuration or the code, never a caller's text. One name has one help text, one kind and one set of labels.
    """

    name: str
    help: str
    value: float
    kind: Literal["gauge", "counter"] = "gauge"
    labels: Mapping[str, str] = field(default_factory=dict)


class Observed(Protocol):
    """A part with numbers of its own. It counts in plain attributes, and knows of no metrics library."""

    def observations(self) -> Iterable[Observation]:
        """Called on the event loop at each scrape: reads attributes, does not wait."""


State = Literal["ready", "unknown", "loading", "failed", "not_configured"]
"""``unknown`` is an upstream that is configured and that no call has reached yet."""
STATES: tuple[State, ...] = get_args(State)
"""The best first: what has several states is in the best of them."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a model can answer now, in words an operator can act on."""

    name: str
    state: State
    reason: str
    details: JsonObject = field(default_factory=dict)
    retry_after: float | None = None
    """Seconds after which to ask again, where it cannot answer now and that is known."""


class ChatModel(Protocol):
    """A chat request goes in, an async stream of deltas comes out.

    ``stream`` raises errors of ``apps.core.errors`` and nothing else. Closing or cancelling the generator
    ends the work behind it: the upstream's connection is closed, the local slot is freed. A stream that
    ends without an error has had exactly one delta with a ``finish_reason``.
    """

    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]: ...

    def readiness(self) -> Readiness: ...

    async def start(self) -> None:
        """Begin whatever must run before the first call; returns at once."""

    async def aclose(self) -> None:
        """End everything that ``start`` and the calls began."""


class ContextWindow(Protocol):
    """How much a model can take: ``tokens`` of prompt and answer together.

    ``control`` are the texts that its tokenizer reads as more than text, as far as they are known: an end of a turn.
    """

    tokens: int
    control: Collection[str]

    async def count(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> int:
        """Tokens of the whole prompt that these make: never fewer than the model will count, and maybe more."""


@runtime_checkable
class Writer(ChatModel, Protocol):
    """A ChatModel whose window is known before it is asked, so that a prompt can be made to fit."""

    async def window(self, request: ChatRequest) -> ContextWindow:
        """The window of the model that this request goes to. Raises ModelUnavailable where that is not known yet."""


@runtime_checkable
class Tokenizing(Protocol):
    """A model whose tokenizer is here."""

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> list[int]:
        """The tokens of a request's prompt: its chat, its text where it is ``raw``, or its ``prompt_tokens``.

        Without ``special`` a raw text has no token in front of it or behind it that the text does not stand for.
        """

    async def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Each token by itself, special ones by their names. Raises InvalidValue."""

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``, special ones by their names: what `tokenize` makes of a chat is its whole prompt."""


class Embedder(Protocol):
    """Texts go in, one vector of ``dimensions`` float32 values each comes out, L2-normalised.

    A text over ``longest`` tokens is refused with InvalidValue, never cut; all else raises errors of
    ``apps.core.errors`` too.
    """

    name: str
    dimensions: int
    longest: int

    async def embed(self, texts: Sequence[str]) -> list[list[float]]: ...

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text, as ``longest`` counts them."""

    def readiness(self) -> Readiness: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class EmbedsTokens(Protocol):
    """An Embedder whose tokenizer is here.

    ``cuttable`` are the numbers of dimensions, below its own, that it was trained to be cut to (Kusupati et al. 2022,
    Matryoshka representations): so many first values of a vector are a good vector too.
    """

    cuttable: Collection[int]

    async def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, special ones included. Raises ModelUnavailable."""

    async def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
        """A vector of each run of tokens, as `Embedder.embed`. Raises InvalidValue for one that is no token."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """Relevance of texts to a query, in their order; ``tokens`` were read, None where that is not known."""

    model: str
    scores: Sequence[float]
    tokens: int | None = None


class Reranker(Protocol):
    """A query and texts go in, a relevance each comes out: more is better, on a scale of the model's own.

    Raises errors of ``apps.core.errors``.
    """

    name: str

    async def rerank(self, query: str, texts: Sequence[str]) -> Reranked: ...

    def readiness(self) -> Readiness: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class KnowsWords(Protocol):
    """An Embedder that can tell how much of a text its vectors are blind to."""

    async def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        """Of each text, the share of its tokens that stand for no word or letter that it knows, 0 to 1."""


@runtime_checkable
class AsksOthers(Protocol):
    """A ChatModel that asks other models, and costs what they cost."""

    def dearest(self, model: str) -> tuple[float, float] | None:
        """US dollars for a million tokens of the prompt and of the answer, however often it asks; None: not known."""


@runtime_checkable
class Revised(Protocol):
    """A ChatModel that knows its revision for a request; None where it does not know it now."""

    def revision(self, request: ChatRequest) -> str | None: ...


def revision_of(model: object, request: ChatRequest) -> str | None:
    return model.revision(request) if isinstance(model, Revised) else None


def digest_of(*words: object) -> str:
    """A revision that says nothing of what it was made from: no address, no folder."""
    return hashlib.sha256("\n".join(map(repr, words)).encode()).hexdigest()


class WrapperModel:
    """Hands everything on; a wrapper overrides what it changes."""

    def __init__(self, inner: ChatModel) -> None:
        self.inner = inner

    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        return self.inner.stream(request)

    def readiness(self) -> Readiness:
        return self.inner.readiness()

    def revision(self, request: ChatRequest) -> str | None:
        return revision_of(self.inner, request)

    async def start(self) -> None:
        await self.inner.start()

    async def aclose(self) -> None:
        await self.inner.aclose()
