"""Markdown, by markdown-it-py: the source itself, cut where its headings are. Nothing is rendered."""

from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from markdown_it import MarkdownIt

from apps.rag.parsing.kinds import decoded
from apps.rag.parsing.sections import HeadingPath, Section


def sections(file: BinaryIO) -> Iterator[Section]:
    text = decoded(file.read())
    # only the blocks are of interest: where a heading is, and not inside a code block
    reader = MarkdownIt("commonmark").disable(["inline", "text_join"])
    lines, path, start = text.splitlines(keepends=True), HeadingPath(), 0
    tokens = reader.parse(text)
    for token, following in pairwise(tokens):
        if token.type != "heading_open" or token.map is None or token.level:
            continue
        if text_before := "".join(lines[start : token.map[0]]).strip():
            yield Section(text_before, headings=path.path(), markdown=True)
        start = token.map[0]
        path.enter(int(token.tag[1]), following.content)
    yield Section("".join(lines[start:]).strip(), headings=path.path(), markdown=True)
