"""HTML, by the standard library's tokenizer: text under its headings. No tree is built, so that none can be deep."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import BinaryIO

from apps.rag.parsing.kinds import decoded, unreadable
from apps.rag.parsing.sections import HeadingPath, Section

SILENT = frozenset({"script", "style", "template", "noscript", "svg", "math", "head", "title", "iframe", "object"})
HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCK_NAMES = """
address article aside blockquote br dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6
header hr li main nav ol option p pre section summary table tbody td tfoot th thead tr ul
"""
VOID_NAMES = "area base br col embed hr img input link meta source track wbr"
BLOCKS, VOID = frozenset(BLOCK_NAMES.split()), frozenset(VOID_NAMES.split())
# no page that was written for people comes near
DEEPEST = 1000


def sections(file: BinaryIO) -> Iterator[Section]:
    reader = _Reader()
    reader.feed(decoded(file.read()))
    reader.close()
    yield from reader.finished()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._sections: list[Section] = []
        self._pieces: list[str] = []
        self._path = HeadingPath()
        self._heading: list[str] | None = None
        self._open: list[str] = []
        self._silent = 0
        self._pre = 0

    def finished(self) -> list[Section]:
        self._cut()
        return self._sections

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in BLOCKS:
            self._pieces.append("\n")
        if tag in VOID:
            return
        self._open.append(tag)
        if len(self._open) > DEEPEST:
            raise unreadable(f"Its elements are nested more than {DEEPEST} deep")
        self._silent += tag in SILENT
        self._pre += tag == "pre"
        if tag in HEADINGS and not self._silent:
            self._cut()
            self._heading = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in BLOCKS:
            self._pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in HEADINGS and self._heading is not None:
            heading, self._heading = "".join(self._heading), None
            self._path.enter(HEADINGS[tag], heading)
            self._pieces.append(" ".join(heading.split()))
        if tag in BLOCKS:
            self._pieces.append("\n")
        if tag not in self._open:
            return
        while self._open:
            closed = self._open.pop()
            self._silent -= closed in SILENT
            self._pre -= closed == "pre"
            if closed == tag:
                return

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if self._heading is not None:
            self._heading.append(data)
        else:
            self._pieces.append(data if self._pre else _spaced(data))

    def _cut(self) -> None:
        lines = [line.strip() if not self._pre else line for line in "".join(self._pieces).split("\n")]
        text = "\n".join(line for line in lines if line)
        if text:
            self._sections.append(Section(text, headings=self._path.path()))
        self._pieces = []


def _spaced(data: str) -> str:
    """Runs of white space are one blank, as in a browser."""
    words = " ".join(data.split())
    if not words:
        return " "
    return (" " if data[0].isspace() else "") + words + (" " if data[-1].isspace() else "")
