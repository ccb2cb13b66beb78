"""The tool calls of an answer, read from what upstreams send for them: each call whole, under an index of its own.

OpenAI sends a call's index with each piece, its id and name with the first, and its arguments as pieces of text. Others
send index 0 for every call, null or none; an id or a name that comes later, or again with each piece; arguments as an
object, as null, or not at all. A call is given on once its name is known, and its id where one is about to come.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apps.core.deltas import ToolCallDelta
from apps.core.errors import UpstreamError
from apps.models.upstream_errors import nonsense

NO_ARGUMENTS = "{}"


@dataclass(slots=True)
class _Call:
    """A call in the making; ``place`` is the upstream's index, ``index`` ours once the call has been given on."""

    place: int | None
    id: str = ""
    name: str = ""
    arguments: str = ""
    index: int | None = None


class ToolCallReader:
    """Reads the calls of one choice. Raises UpstreamError for shapes that nobody knows."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._given = 0

    def read(self, pieces: Any) -> list[ToolCallDelta]:
        """What the pieces of one delta, or the calls of a whole message, add."""
        if not isinstance(pieces, list | tuple):
            raise unknown_shape()
        return [delta for piece in pieces for delta in self._read(piece)]

    def finish(self) -> list[ToolCallDelta]:
        """What was held back, at the answer's end. Raises UpstreamError for a call without a name."""
        deltas: list[ToolCallDelta] = []
        for call in self._calls:
            if not call.name:
                raise nonsense("The upstream's answer calls a tool without a name")
            missing = "" if call.arguments.strip() else NO_ARGUMENTS
            call.arguments += missing
            if call.index is None:
                deltas.append(self._first(call))
            elif missing:
                deltas.append(ToolCallDelta(call.index, arguments=missing))
        return deltas

    def _read(self, piece: Any) -> list[ToolCallDelta]:
        if not isinstance(piece, Mapping):
            raise unknown_shape()
        function = piece.get("function")
        function = {} if function is None else function
        if not isinstance(function, Mapping):
            raise unknown_shape()
        place = piece.get("index")
        place = place if type(place) is int else None
        id, name = text_of(piece.get("id")), text_of(function.get("name"))
        arguments = _arguments(function.get("arguments"))
        call = self._call_of(place, id, name, arguments)
        if not isinstance(function.get("arguments"), str | None) and call.arguments:
            # a whole object is never the continuation of a text
            if call.arguments != arguments:
                raise unknown_shape()
            arguments = ""
        call.id, call.name = call.id or id, call.name or name
        call.arguments += arguments
        if call.index is not None:
            return [ToolCallDelta(call.index, arguments=arguments)] if arguments else []
        # an id may come with the next piece, and a client takes it from the first that it sees
        if call.name and (call.id or call.arguments):
            return [self._first(call)]
        return []

    def _first(self, call: _Call) -> ToolCallDelta:
        call.index = self._given
        self._given += 1
        call.id = call.id or f"call_{secrets.token_hex(12)}"
        return ToolCallDelta(call.index, call.id, call.name, call.arguments)

    def _call_of(self, place: int | None, id: str, name: str, arguments: str) -> _Call:
        """The call that a piece belongs to, or a new one."""
        for call in self._calls:
            if id and call.id == id and (place is None or call.place is None or call.place == place):
                return call
        last = next((call for call in reversed(self._calls) if place is None or call.place == place), None)
        if last is None or self._begins(last, id, name, arguments):
            last = _Call(place)
            self._calls.append(last)
        return last

    @staticmethod
    def _begins(last: _Call, id: str, name: str, arguments: str) -> bool:
        """Whether a piece begins a call of its own, though an earlier one has its place."""
        if id and last.id:
            # some upstreams make up another id for each piece of arguments
            return bool(name) or not arguments or _is_whole(last.arguments)
        if name and last.name:
            return name != last.name or _is_whole(last.arguments)
        return False


def text_of(value: Any) -> str:
    """A text or nothing. Raises UpstreamError for everything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise unknown_shape()
    return value


def unknown_shape() -> UpstreamError:
    return nonsense("The upstream's answer has an unknown shape")


def _arguments(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else text_of(value)


def _is_whole(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True
