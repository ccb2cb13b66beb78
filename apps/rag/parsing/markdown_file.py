"""Markdown, by markdown-it-py: the source itself, cut where its headings are. Front matter is metadata."""

import datetime
import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, BinaryIO

import yaml
from markdown_it import MarkdownIt

from apps.rag.names import KEY, LONGEST_STRING, MOST_KEYS, OWN_FIELDS
from apps.rag.parsing.sections import HeadingPath, Reading, Section
from apps.rag.parsing.text_encoding import decoded
from apps.rag.records import MetadataValue

FRONT = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?)(?<=\n)(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
LONGEST_FRONT = 20_000


def sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
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
        told = tomllib.loads(found[2]) if found[1] == "+++" else yaml.load(found[2], _PlainLoader)  # noqa: S506 - safe
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError):
        return 0
    if told is None:
        return found.end()
    if not isinstance(told, dict):
        return 0
    reading.metadata = dict(_fields(told, reading))
    return found.end()


class _PlainLoader(yaml.SafeLoader):
    """Safe, and without aliases: a few lines of those are a bomb."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def _fields(told: Mapping[Any, Any], reading: Reading) -> Iterator[tuple[str, MetadataValue]]:
    kept = 0
    for key, value in told.items():
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
