"""Plain text and CSV: no headings, no pages. A CSV row is a line that names its columns."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

from apps.rag.parsing.sections import Reading, Section
from apps.rag.parsing.text_encoding import decoded

ROWS = 200
"""Rows a section: a passage holds whole rows where they are short enough."""
# of those that fit equally well, the one that texts have least
DELIMITERS = ("\t", "|", ";", ",")
# what Excel writes before the rows, and reads no row from
SEPARATOR = re.compile(r'\A"?sep=(.)"?[^\S\n]*(?:\n|\Z)', re.IGNORECASE)
SAMPLED_ROWS = 100


def text_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    yield Section(decoded(file.read(), reading.warn).strip())


def csv_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    text = decoded(file.read(), reading.warn)
    told = SEPARATOR.match(text)
    if told is not None:
        delimiter, text = told[1], text[told.end() :]
    else:
        delimiter = delimiter_of(text)
    rows, lines = _rows(text, delimiter, reading), list[str]()
    header = next((row for row in rows if any(row)), [])
    for row in rows:
        lines.append(_line(header, row))
        if len(lines) == ROWS:
            yield Section("\n".join(filter(None, lines)))
            lines = []
    # a header alone is still what the file says
    yield Section("\n".join(filter(None, lines)) if lines else delimiter.join(header))


def _rows(text: str, delimiter: str, reading: Reading) -> Iterator[list[str]]:
    """By the rules of quotes where the file keeps them; else so that no row is lost, and with a warning."""

    def read(**rules: Any) -> Iterator[list[str]]:
        return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **rules)

    try:
        for _ in read(strict=True):
            pass
        return read(strict=True)
    except csv.Error:
        reading.warn("Quotes in it do not end where a field does: cells may hold more or less than was meant")
    try:
        # a field that took whole rows with it: its quote was never meant to open one
        swallows = any("\n" in cell and delimiter in cell for row in read() for cell in row)
    except csv.Error:
        swallows = True
    return read(quoting=csv.QUOTE_NONE) if swallows else read()


def delimiter_of(text: str) -> str:
    """The one that gives rows of equal length, and of those the one that gives the longest."""
    return max(DELIMITERS, key=lambda delimiter: _evenness(text, delimiter))


def _evenness(text: str, delimiter: str) -> tuple[float, int, int]:
    """The share of rows that are as long as most, their length, and which comes first."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lengths = [len(row) for row in islice(reader, SAMPLED_ROWS) if row]
    except csv.Error:
        return 0.0, 0, 0
    usual, count = _usual(lengths)
    share = count / len(lengths) if lengths and usual > 1 else 0.0
    return round(share, 1), usual, -DELIMITERS.index(delimiter)


def _usual(lengths: Sequence[int]) -> tuple[int, int]:
    counted = Counter(lengths).most_common(1)
    return counted[0] if counted else (0, 0)


def _line(header: list[str], row: list[str]) -> str:
    names = [*header, *([""] * (len(row) - len(header)))]
    cells = (" ".join(cell.split()) for cell in row)
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell)
