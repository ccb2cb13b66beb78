"""Plain text, CSV and Markdown.

Plain text and CSV have no headings and no pages; a CSV row is a line that names its columns. Markdown is read by
markdown-it-py: the source itself, cut where its headings are; front matter is metadata.
"""

import csv
import datetime
import io
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any, BinaryIO

import yaml
from markdown_it import MarkdownIt

from apps.rag.parsing.sections import HeadingPath, Reading, Section
from apps.rag.parsing.text_encoding import decoded
from apps.rag.records import KEY, LONGEST_STRING, MOST_KEYS, OWN_FIELDS, MetadataValue

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
    declared = SEPARATOR.match(text)
    if declared is not None:
        delimiter, text = declared[1], text[declared.end() :]
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


FRONT = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?)(?<=\n)(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
LONGEST_FRONT = 20_000


def markdown_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    text = decoded(file.read(), reading.warn)
    start = _front_matter(text, reading)
    # what is cut off before must not move the spans: the document's text begins after it
    yield from _cut(text[start:])


def _cut(text: str) -> Iterator[Section]:
    # only the blocks are of interest: where a heading is, and not inside a code block
    reader = MarkdownIt("commonmark").disable(["inline", "text_join"])
    # lines end where markdown-it ends them, and nowhere else: U+2028 is a character like others
    lines, path, start = text.split("\n"), HeadingPath(), 0
    tokens = reader.parse(text)
    for token, following in pairwise(tokens):
        if token.type != "heading_open" or token.map is None or token.level:
            continue
        if text_before := "\n".join(lines[start : token.map[0]]).strip():
            yield Section(text_before, headings=path.path(), markdown=True)
        start = token.map[0]
        path.enter(int(token.tag[1]), following.content)
    yield Section("\n".join(lines[start:]).strip(), headings=path.path(), markdown=True)


def _front_matter(text: str, reading: Reading) -> int:
    """Where the text begins; its fields go to the reading's metadata."""
    found = FRONT.match(text[:LONGEST_FRONT])
    if found is None:
        return 0
    try:
        front_matter = tomllib.loads(found[2]) if found[1] == "+++" else yaml.load(found[2], _PlainLoader)  # noqa: S506 - safe
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError):
        return 0
    if front_matter is None:
        return found.end()
    if not isinstance(front_matter, dict):
        return 0
    reading.metadata = dict(_fields(front_matter, reading))
    return found.end()


class _PlainLoader(yaml.SafeLoader):
    """Safe, and without aliases: a few lines of those are a bomb."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def _fields(front_matter: Mapping[Any, Any], reading: Reading) -> Iterator[tuple[str, MetadataValue]]:
    kept = 0
    for key, value in front_matter.items():
        name, plain = re.sub(r"[^A-Za-z0-9_]", "_", str(key))[:63], _value(value)
        if not KEY.fullmatch(name) or name in OWN_FIELDS or plain is None or kept >= MOST_KEYS:
            reading.warn(f"The front matter's field {str(key)[:40]!r} was not taken as metadata")
            continue
        kept += 1
        yield name, plain


def _value(value: Any) -> MetadataValue | None:
    if isinstance(value, bool | str):
        return value[:LONGEST_STRING] if isinstance(value, str) else value
    if isinstance(value, int | float):
        return value if abs(value) <= 2**53 else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        return ", ".join(map(str, value))[:LONGEST_STRING]
    return None
