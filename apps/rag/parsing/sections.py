"""What a parser yields: the text of a document, in order, in pieces that no passage may cross."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Section:
    """Text under one heading path, on one page where the format has pages. ``markdown`` tells the splitter."""

    text: str
    page: int | None = None
    headings: tuple[str, ...] = ()
    markdown: bool = False


Parser = Callable[[BinaryIO], Iterator[Section]]

LONGEST_HEADING = 200


class HeadingPath:
    """The headings that are open at a point of a document."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def enter(self, level: int, text: str) -> None:
        self._open = [(depth, heading) for depth, heading in self._open if depth < level]
        if text.strip():
            self._open.append((level, " ".join(text.split())[:LONGEST_HEADING]))

    def path(self) -> tuple[str, ...]:
        return tuple(heading for _, heading in self._open)
