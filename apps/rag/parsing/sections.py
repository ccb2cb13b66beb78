"""What a parser yields: the text of a document in sections that no passage may cross; and passages without vectors."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from apps.rag.records import MetadataValue


@dataclass(frozen=True, slots=True)
class Section:
    """Text under one heading path, on one page where the format has pages. ``markdown`` tells the splitter."""

    text: str
    page: int | None = None
    headings: tuple[str, ...] = ()
    markdown: bool = False


@dataclass(frozen=True, slots=True)
class OcrOptions:
    """``command`` is tesseract's path, None where scans are not recognised; ``reason`` says why not."""

    command: Path | None = None
    languages: str = "eng"
    reason: str = "RAG_OCR is off"

    @classmethod
    def of(cls, sent: Mapping[str, Any]) -> "OcrOptions":
        """As they are sent to the parsing process, which cannot be sent a Path."""
        return cls(Path(sent["command"]) if sent["command"] else None, sent["languages"], sent["reason"])


Warn = Callable[[str], None]
"""Takes what could not be read in a document, in words for its owner."""


class Reading:
    """What a parser may say and know beside the text of a document."""

    def __init__(self, ocr: OcrOptions = OcrOptions()) -> None:
        self.ocr = ocr
        self.warnings: list[str] = []
        self.metadata: Mapping[str, MetadataValue] = {}

    def warn(self, words: str) -> None:
        if words not in self.warnings and len(self.warnings) < MOST_WARNINGS:
            self.warnings.append(words)


Parser = Callable[[BinaryIO, Reading], Iterator[Section]]

MOST_WARNINGS = 100
LONGEST_HEADING = 200
TABLE_CHARACTERS = 600
"""A longer table is cut into sections of whole rows, each of which begins with the table's first row."""


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


class SectionBuilder:
    """Blocks of a document, collected to sections of Markdown: one a heading, and more where a table is long."""

    def __init__(self, page: int | None = None) -> None:
        self.page = page
        self._path = HeadingPath()
        self._blocks: list[str] = []
        self._done: list[Section] = []

    def heading(self, level: int, text: str) -> None:
        words = " ".join(text.split())
        if not words:
            return
        self.cut()
        self._path.enter(level, words)
        self._blocks.append(f"{'#' * min(max(level, 1), 6)} {words}")

    def block(self, text: str) -> None:
        if text.strip():
            self._blocks.append(text.strip("\n"))

    def item(self, text: str) -> None:
        """Of a list: the next line after an item before it."""
        if not text.strip():
            return
        line = f"- {text.strip()}"
        if self._blocks and self._blocks[-1].startswith("- "):
            self._blocks[-1] += f"\n{line}"
        else:
            self._blocks.append(line)

    def table(self, rows: "list[list[str]]") -> None:
        """Rows of cells as they are read; white space and line ends in a cell become blanks."""
        kept = [line for row in rows if (line := table_row(row)).strip("| ")]
        groups = _grouped(kept)
        for number, group in enumerate(groups):
            if number:
                self.cut()
            self._blocks.append("\n".join(group))
        if len(groups) > 1:
            self.cut()

    def cut(self) -> None:
        if self._blocks:
            self._done.append(Section("\n\n".join(self._blocks), self.page, self._path.path(), markdown=True))
            self._blocks = []

    def take(self) -> list[Section]:
        """The sections that are finished."""
        done, self._done = self._done, []
        return done

    def finish(self) -> list[Section]:
        self.cut()
        return self.take()


def table_row(cells: "list[str]") -> str:
    return "| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |"


def _grouped(lines: "list[str]") -> "list[list[str]]":
    if not lines:
        return []
    first, groups, length = lines[0], [[lines[0]]], len(lines[0])
    for line in lines[1:]:
        if length + len(line) > TABLE_CHARACTERS and len(groups[-1]) > 1:
            # a first row that is as long as a passage is no header
            groups.append([first] if len(first) < TABLE_CHARACTERS // 2 else [])
            length = len(first)
        groups[-1].append(line)
        length += len(line)
    return groups


@dataclass(frozen=True, slots=True)
class Chunk:
    """``start`` and ``end`` are its span in the document's text."""

    text: str
    start: int
    end: int
    page: int | None
    headings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> "Chunk":
        return cls(**{**given, "headings": tuple(given["headings"])})
