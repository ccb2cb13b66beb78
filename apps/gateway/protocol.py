"""What goes over the wire of OpenAI's API: a call as its caller sent it, and an answer as its bytes."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from apps.core.callers import ANONYMOUS, Caller
from apps.core.deltas import Usage

TraceHeaders = Callable[[], Mapping[str, str]]


class WireCall(NamedTuple):
    """One POST. ``body`` is ``raw``, parsed; fields that nobody here knows travel along in both."""

    path: str
    raw: bytes
    body: Mapping[str, Any]
    stream: bool
    caller: Caller = ANONYMOUS

    def for_model(self, model: str) -> bytes:
        """The bytes for a target: untouched where it has the caller's own name for the model."""
        if self.body.get("model") == model:
            return self.raw
        return json.dumps({**self.body, "model": model}, ensure_ascii=False).encode()


class Blocks(Protocol):
    """An iterator of blocks of whole events that can be closed; every async generator of bytes is one."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class Used:
    """The tokens of an answer, as far as they are known by now; those of a stream are known at its end.

    ``model`` is who really answered where a target asked another model, and ``cost`` what that cost in US dollars;
    None: the target itself.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    model: str | None = None
    cost: float | None = None

    def note(self, prompt: int, completion: int, cached: int = 0) -> None:
        self.prompt_tokens, self.completion_tokens, self.cached_tokens = prompt, completion, cached

    def note_usage(self, usage: Usage | None) -> None:
        if usage is not None:
            self.note(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
            self.cost = usage.cost


@dataclass(slots=True)
class WireReply:
    """A 200: the whole body; or the first block of a stream, one or more whole events, and the ``rest`` of them.

    ``close`` must be awaited, whatever happens; it ends the upstream's work. ``used`` is filled in by who answers.
    """

    content_type: str
    body: bytes
    rest: Blocks | None = None
    used: Used = field(default_factory=Used)

    async def close(self) -> None:
        if self.rest is not None:
            await self.rest.aclose()


class WireTarget(Protocol):
    """Answers calls in OpenAI's own shapes. Raises errors of apps.core.errors and nothing else."""

    async def open(self, call: WireCall, model: str) -> WireReply:
        """Send the call; a streamed reply is returned once its first block is there."""

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class Receipt:
    """What happened to a call: times in seconds, cost in US dollars; None where it is not known.

    ``cache`` is ``miss`` where the answer was made for this call, ``replay`` where it was recorded under the same
    Idempotency-Key, ``hit`` or ``semantic`` where the response cache had it: ``age`` seconds old, and for a question
    that is like this one by a cosine of ``score``. ``estimated``: nobody told the tokens, so they are the prompt's
    length and the pieces of the answer.
    """

    model: str = ""
    provider: str = ""
    attempts: int = 0
    cache: str = "miss"
    queued: float = 0.0
    first_token: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    estimated: bool = False
    cost: float | None = None
    tried: list[str] = field(default_factory=list)
    age: float | None = None
    score: float | None = None
