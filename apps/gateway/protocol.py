"""What goes over the wire of OpenAI's API: a call as its caller sent it, and an answer as its bytes."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from apps.core.callers import ANONYMOUS, Caller
from apps.core.calls import CallRecord

TraceHeaders = Callable[[], Mapping[str, str]]


class WireCall(NamedTuple):
    """One POST. ``body`` is ``raw``, parsed; unknown fields travel along in both.

    The target that answers notes the usage on ``record``, and the model where that is not its own. ``fits``: the limit
    of the answer is no promise, and gives way where the model's context has not so much room.
    """

    path: str
    raw: bytes
    body: Mapping[str, Any]
    stream: bool
    caller: Caller = ANONYMOUS
    record: CallRecord | None = None
    fits: bool = False

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
class WireReply:
    """A 200: the whole body; or the first block of a stream, one or more whole events, and the ``rest`` of them.

    ``close`` must be awaited, whatever happens; it ends the upstream's work.
    """

    content_type: str
    body: bytes
    rest: Blocks | None = None

    async def close(self) -> None:
        if self.rest is not None:
            await self.rest.aclose()


class WireTarget(Protocol):
    """Answers calls in OpenAI's own shapes. Raises errors of apps.core.errors and nothing else."""

    async def open(self, call: WireCall, model: str) -> WireReply:
        """Send the call; a streamed reply is returned once its first block is there."""

    async def aclose(self) -> None: ...
