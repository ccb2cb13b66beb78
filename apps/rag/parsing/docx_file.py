"""DOCX, by python-docx: paragraphs under their headings, tables a row a line."""

import re
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import docx
from docx.table import Table
from docx.text.paragraph import Paragraph

from apps.rag.parsing.kinds import unreadable
from apps.rag.parsing.sections import HeadingPath, Section

# unpacked; what a DOCX says of its size is checked again by the memory limit while it is unpacked
LARGEST_PART = 200 * 2**20
HEADING = re.compile(r"(?:heading |title$)(\d?)", re.IGNORECASE)


def sections(file: BinaryIO) -> Iterator[Section]:
    with zipfile.ZipFile(file) as archive:
        if any(info.file_size > LARGEST_PART for info in archive.infolist()):
            raise unreadable("It unpacks to more than is allowed")
    file.seek(0)
    path, lines = HeadingPath(), list[str]()
    for item in docx.Document(file).iter_inner_content():
        level = _level(item)
        if level is None:
            lines.extend(_lines(item))
            continue
        if lines:
            yield Section("\n".join(lines), headings=path.path())
            lines = []
        heading = item.text if isinstance(item, Paragraph) else ""
        path.enter(level, heading)
        # a heading is text too: somebody may search for it
        lines.append(heading)
    if lines:
        yield Section("\n".join(lines), headings=path.path())


def _level(item: Paragraph | Table) -> int | None:
    if isinstance(item, Table) or item.style is None or item.style.name is None:
        return None
    found = HEADING.match(item.style.name)
    return int(found[1] or 0) if found else None


def _lines(item: Paragraph | Table) -> Iterator[str]:
    if isinstance(item, Paragraph):
        yield item.text
        return
    for row in item.rows:
        cells: list[str] = []
        for cell in row.cells:
            # a merged cell comes once for each column that it spans
            if not cells or cell.text != cells[-1]:
                cells.append(cell.text)
        yield " | ".join(cells)
