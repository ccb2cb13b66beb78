"""What happens in a run, told while it happens. Values; how they go over a wire is the API's affair."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of what the model writes."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The model asks for a tool; ``arguments`` are as it wrote them: an object, or text that is none."""

    id: str
    tool: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """What the model is told of a call. ``failed``: there was no such tool, or it raised, or it was denied."""

    id: str
    tool: str
    result: str
    failed: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ApprovalRequired:
    """The run pauses until somebody has decided on these calls."""

    calls: tuple[ToolCalled, ...]


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of a run that did not fail. ``finish_reason`` is ``approval_required`` where it pauses."""

    finish_reason: str
    answer: str = ""
    model: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


Event = TextDelta | ToolCalled | ToolReturned | ApprovalRequired | RunEnded
Emit = Callable[[Event], Awaitable[None]]
