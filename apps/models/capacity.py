"""What the models of a machine can take now: the answer of GET /v1/capacity, and the speed that it reports.

A fleet shares its calls out by that answer. The speed is that of all answers of a model together.
"""

import time
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from pydantic import ConfigDict, Field

from apps.core.fields import Schema
from apps.core.ports import State

Kind = Literal["chat", "embedding", "rerank"]


class ModelCapacity(Schema):
    """One model of this machine. null is what is not counted for this kind of model, or not measured yet."""

    # a replica of the next version may say more than this one knows
    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    id: str = Field(description="The name that the model answers to", examples=["TinyLlama/TinyLlama-1.1B-Chat-v1.0"])
    kind: Kind
    status: State
    reason: str
    slots: int | None = Field(None, description="Calls that run at the same time")
    running: int | None = Field(None, description="Calls that hold a slot")
    waiting: int | None = Field(None, description="Calls that wait for a slot")
    queue_size: int | None = Field(None, description="Calls that may wait; more are refused with 503")
    tokens_per_second: float | None = Field(
        None, description="Tokens of all its answers together, measured over the last minute or so in which any ran"
    )
    context: int | None = Field(None, description="Most tokens of prompt and answer")
    revision: str | None = Field(None, description="Changes with what its answers depend on: checkpoint and precision")
    predicted_wait: float | None = Field(None, description="Seconds that a call made now should wait for its slot")
    retry_after: float | None = Field(None, description="Seconds until it may answer, where it cannot answer now")
    steps: int | None = Field(None, description="Steps that the engine has computed; grows while calls run")
    stalled: float | None = Field(None, description="Seconds since the engine's last step, while calls run; 0: none do")
    control_texts: list[str] | None = Field(
        None, description="Texts that its tokenizer reads as more than text; where ?control_texts=true asks for them"
    )

    @property
    def load(self) -> int:
        """Calls that run and wait."""
        return (self.running or 0) + (self.waiting or 0)


class Capacity(Schema):
    """All models of this machine. ``draining``: it ends, and takes no new calls from a fleet."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    object: str = "capacity"
    draining: bool = Field(description="The process is shutting down: send nothing new here")
    models: list[ModelCapacity]


@runtime_checkable
class Measured(Protocol):
    """A model that knows what it can take."""

    def capacity(self) -> ModelCapacity: ...


@runtime_checkable
class KnowsControlTexts(Protocol):
    """A model whose tokenizer is here, once it is loaded."""

    def control_texts(self) -> list[str] | None:
        """Texts that it reads as more than text; None while that is not known."""


WINDOW_SECONDS = 30.0
# of less, a rate would be an accident
SHORTEST = 0.05


class Throughput:
    """Counts tokens and the seconds in which answers ran. All of it runs on one event loop.

    The rate is that of the window of 30 busy seconds under way and of the one before: what is idle does not age it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running = 0
        self._since = 0.0
        self._tokens, self._busy = 0, 0.0
        self._before = (0, 0.0)

    def begin(self) -> None:
        """An answer runs; `end` must follow."""
        self._settle()
        self._running += 1

    def end(self) -> None:
        self._settle()
        self._running -= 1

    def count(self, tokens: int) -> None:
        """Add tokens that have come out."""
        self._settle()
        self._tokens += tokens
        if self._busy >= WINDOW_SECONDS:
            self._before, self._tokens, self._busy = (self._tokens, self._busy), 0, 0.0

    def rate(self) -> float | None:
        """Tokens a second; None where nothing was measured."""
        self._settle()
        tokens, busy = self._tokens + self._before[0], self._busy + self._before[1]
        return tokens / busy if tokens and busy >= SHORTEST else None

    def _settle(self) -> None:
        now = self._clock()
        if self._running:
            self._busy += now - self._since
        self._since = now
