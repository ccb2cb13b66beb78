"""A parser of text/event-stream after the HTML standard, for judging streams. Values in, values out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event; ``kind`` is ``message`` where the stream names none."""

    kind: str
    data: str


def events_of(body: bytes) -> list[Event]:
    """Every event that a browser would dispatch. An event that its blank line never ended is none.

    Raises UnicodeDecodeError where the stream is not UTF-8.
    """
    text = body.decode("utf-8").removeprefix("\ufeff")
    return list(_dispatched(re.split(r"\r\n|\r|\n", text)))


def _dispatched(lines: list[str]) -> Iterator[Event]:
    kind, data = "", list[str]()
    for line in lines[:-1]:  # what no line end followed is not processed
        if not line:
            if data:
                yield Event(kind or "message", "\n".join(data))
            kind, data = "", []
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "event":
                kind = value
