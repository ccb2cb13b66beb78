"""Plain text and CSV: no headings, no pages. A CSV row is a line that names its columns."""

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO

from apps.rag.parsing.kinds import decoded, unreadable
from apps.rag.parsing.sections import Section

ROWS = 200
"""Rows a section: a passage holds whole rows where they are short enough."""
DELIMITERS = ",;\t|"


def text_sections(file: BinaryIO) -> Iterator[Section]:
    yield Section(decoded(file.read()).strip())


def csv_sections(file: BinaryIO) -> Iterator[Section]:
    text = decoded(file.read())
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    rows, lines = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True), list[str]()
    try:
        header = next(rows, [])
        for row in rows:
            lines.append(_line(header, row))
            if len(lines) == ROWS:
                yield Section("\n".join(lines))
                lines = []
    except csv.Error as error:
        raise unreadable(f"It is not CSV: {error}") from error
    # a header alone is still what the file says
    yield Section("\n".join(lines) if lines else delimiter.join(header))


def _line(header: list[str], row: list[str]) -> str:
    names = [*header, *([""] * (len(row) - len(header)))]
    cells = (" ".join(cell.split()) for cell in row)
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell)
