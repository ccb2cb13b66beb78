"""An answer: the deltas of a stream, the whole collected from them, and the end of one that is handed on."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeVar

from apps.core.calls import Usage
from apps.core.errors import UpstreamError
from apps.core.messages import ToolCall

G = TypeVar("G", bound=AsyncGenerator[Any, None])


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that the model was given; ``number`` is how the answer's text may refer to it, as in [1].

    ``start`` and ``end`` are its span in the document's text, in Unicode code points, and ``quote`` is what stands
    there. ``document`` is the document's id, ``name`` the name of its file. ``page`` counts from 1. ``support`` is the
    span of the sentence that supports the answer: known when the answer is whole, None where no sentence does.
    """

    number: int
    document: str
    name: str
    page: int | None
    heading: tuple[str, ...]
    start: int
    end: int
    score: float
    quote: str
    support: tuple[int, int] | None = None


def citations_json(citations: Sequence[Citation]) -> list[dict[str, Any]]:
    """As they are written in every answer."""
    return [
        {
            "number": citation.number,
            "document": citation.document,
            "name": citation.name,
            "page": citation.page,
            "heading": list(citation.heading),
            "span": [citation.start, citation.end],
            "score": citation.score,
            "quote": citation.quote,
            "support": list(citation.support) if citation.support is not None else None,
        }
        for citation in citations
    ]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: ``id`` and ``name`` come with the first piece of each ``index``."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the answer with its natural logarithm of probability, and the likeliest tokens in its place.

    ``raw`` is exact; ``token`` is its text, with U+FFFD where a token is a part of a character only. The first token
    of a prompt has no ``logprob``. ``id`` is the token's number, and ``rank`` its place among all tokens, from 1, both
    where they are known.
    """

    token: str
    raw: bytes
    logprob: float | None
    top: tuple["TokenLogprob", ...] = ()
    id: int | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """The tokens of a prompt, as the model read them, and the log probabilities of each where those are asked for."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """One step of an answer. The last one of a whole answer, and only that, has a ``finish_reason``.

    ``model`` names the model that answers and comes with the last delta at the latest, as ``usage`` does where the
    model counts tokens at all. ``logprobs`` are of the text's tokens, where they were asked for. ``citations`` come
    with the first delta of an answer from documents, and with no other: there may be none of them. ``reasoning`` is
    what the model thought before its answer: never a part of ``text``. ``tokens`` are those generated since the last
    delta, also where they have no text, and ``prompt`` comes with the first; both where they were asked for.
    ``stopped_by`` comes with the last one, where a stop string or a stop token of the caller's ended the answer.
    """

    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    citations: tuple[Citation, ...] | None = None
    reasoning: str = ""
    tokens: tuple[int, ...] = ()
    prompt: PromptTokens | None = None
    stopped_by: str | int | None = None


@dataclass(slots=True)
class Answer:
    """A stream, collected."""

    text: str
    finish_reason: str
    model: str | None = None
    usage: Usage | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    citations: tuple[Citation, ...] | None = None
    reasoning: str = ""
    tokens: list[int] = field(default_factory=list)
    prompt: PromptTokens | None = None
    stopped_by: str | int | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """A stream whose first delta is there. Its holder closes ``rest``."""

    first: Delta
    rest: AsyncGenerator[Delta, None]


async def begin(deltas: AsyncGenerator[Delta, None]) -> Begun:
    """Wait for the first delta; what fails before it is raised here, and the stream is closed then."""
    try:
        return Begun(await anext(deltas), deltas)
    except StopAsyncIteration:
        raise UpstreamError("The model's answer was cut off before its end") from None
    except BaseException:
        await deltas.aclose()
        raise


async def collect(deltas: AsyncIterable[Delta]) -> Answer:
    """Read a stream to its end.

    Raises UpstreamError where it ends without a ``finish_reason``: it was cut.
    """
    texts: list[str] = []
    thoughts: list[str] = []
    calls: dict[int, ToolCallDelta] = {}
    logprobs: list[TokenLogprob] = []
    tokens: list[int] = []
    finish = model = usage = citations = prompt = stopped_by = None
    async for delta in deltas:
        texts.append(delta.text)
        thoughts.append(delta.reasoning)
        logprobs += delta.logprobs
        tokens += delta.tokens
        prompt = delta.prompt or prompt
        stopped_by = delta.stopped_by if delta.stopped_by is not None else stopped_by
        for piece in delta.tool_calls:
            calls[piece.index] = _joined(calls.get(piece.index), piece)
        finish = delta.finish_reason or finish
        model = delta.model or model
        usage = delta.usage or usage
        citations = delta.citations if delta.citations is not None else citations
    if finish is None:
        raise UpstreamError("The model's answer was cut off before its end")
    tool_calls = [ToolCall(c.id or "", c.name or "", c.arguments) for _, c in sorted(calls.items())]
    text, thought = "".join(texts), "".join(thoughts)
    return Answer(text, finish, model, usage, tool_calls, logprobs, citations, thought, tokens, prompt, stopped_by)


def _joined(so_far: ToolCallDelta | None, piece: ToolCallDelta) -> ToolCallDelta:
    if so_far is None:
        return piece
    return ToolCallDelta(
        piece.index, so_far.id or piece.id, so_far.name or piece.name, so_far.arguments + piece.arguments
    )


class Forwarded(Generic[G]):
    """A generator whose items another one hands on; ``async with`` closes it as `contextlib.aclosing` does.

    A cancellation that ends the block between two items is raised in their generator first: its message is the outcome
    of a call on record there, and a generator that is only closed never sees it.
    """

    __slots__ = ("_items",)

    def __init__(self, items: G) -> None:
        self._items = items

    async def __aenter__(self) -> G:
        return self._items

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            # a generator that the cancellation has ended already raises one of these
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await self._items.athrow(error)
        await self._items.aclose()
