"""A deterministic ChatModel that follows a script: for tests, demonstrations and evaluations, without a model.

It is honest about the port: it waits where the script says so, fails where it says so, and ends its work when its
stream is closed.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.core.ports import Readiness, State

Step = Delta | float | Exception
Script = Callable[[ChatRequest], Sequence[Step]]


class ScriptedModel:
    """A step is a delta to yield, seconds to wait, or an error to raise. ``open`` counts running streams."""

    def __init__(self, script: Script, *, name: str = "scripted", state: State = "ready") -> None:
        self._script = script
        self._readiness = Readiness(name, state, "scripted")
        self.open = 0
        self.requests: list[ChatRequest] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        self.open += 1
        try:
            for step in self._script(request):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Delta):
                    yield step
                else:
                    await asyncio.sleep(step)
        finally:
            self.open -= 1

    def revision(self, request: ChatRequest) -> str:
        return self._readiness.name

    def readiness(self) -> Readiness:
        return self._readiness

    async def start(self) -> None:
        """Nothing to begin."""

    async def aclose(self) -> None:
        """Nothing to end."""


def saying(*texts: str, finish_reason: str = "stop") -> Script:
    """The script of an answer in these deltas."""
    deltas = [Delta(text, model="scripted") for text in texts]
    return lambda request: [*deltas, Delta(finish_reason=finish_reason, model="scripted")]
