"""Both ends of MCP in words of our own: what a server serves, and a refusal that a client met. Knows no mcp package."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from apps.agents.tools import Arguments
from apps.core.callers import Caller
from apps.core.messages import JsonObject

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
# in a request's scope, once it is cut off: what did it, one of CUT_OFF
ENDED_BY = "genai.ended_by"
# how far a call has come, in pieces of its answer, and what it does
Progress = Callable[[float, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a tool answers: text for the model, and the same as JSON for programs."""

    text: str
    structured: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ServedTool:
    """``call`` raises errors of the tree; they become the protocol's failure of a tool."""

    name: str
    description: str
    parameters: JsonObject
    call: Callable[[Scope, Arguments, Progress], Awaitable[ToolAnswer]]


@dataclass(frozen=True, slots=True)
class ServedResource:
    """One entry of a list of resources; ``kind`` is its media type."""

    uri: str
    name: str
    description: str
    kind: str


@dataclass(frozen=True, slots=True)
class ReadResource:
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ServedPrompt:
    """``arguments`` are all required: names and what they are; ``write`` makes the user's message of them."""

    name: str
    description: str
    arguments: Mapping[str, str]
    write: Callable[[Mapping[str, str]], str]


class ServedResources(Protocol):
    """What clients can read, and the prompts over it. Raises errors of the tree."""

    @property
    def templates(self) -> Mapping[str, str]:
        """Templates of addresses, and what lies there."""

    async def listed(self, scope: Scope, cursor: str) -> tuple[Sequence[ServedResource], str]:
        """A page from ``cursor`` on, and the cursor of the next one; both are empty at their ends."""

    async def read(self, scope: Scope, uri: str) -> ReadResource: ...

    def prompts(self, caller: Caller) -> Sequence[ServedPrompt]: ...


@dataclass(frozen=True, slots=True)
class Served:
    """``tools_for`` says what a caller may use; ``caller_of`` finds the caller in the scope of the request."""

    tools_for: Callable[[Caller], Sequence[ServedTool]]
    caller_of: Callable[[Scope], Caller]
    version: str
    resources: ServedResources


class McpRefusal(Exception):
    """A server's error of the protocol; ``closed`` where the connection is lost.

    ``forgotten`` where the server does not know the session: it has not looked at the call.
    """

    def __init__(self, message: str, closed: bool, forgotten: bool = False) -> None:
        super().__init__(message)
        self.closed = closed
        self.forgotten = forgotten
