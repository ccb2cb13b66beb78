"""Sections to passages, by tokens with overlap, each with its span in the document's text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from apps.rag.normalization import visible
from apps.rag.parsing.chunks import Chunk
from apps.rag.parsing.sections import Section

# of English text in a usual tokenizer, where the embedder's own is not at hand
CHARS_PER_TOKEN = 4
GAP = 2
"""Between two sections the document's text has an empty line."""
# a tokenizer may see one token, or none, in a thousand characters
LONGEST_CHARS_PER_TOKEN = 20


class Splitter:
    """``tokenizer`` is a tokenizer.json; without it, tokens are estimated from characters."""

    def __init__(self, tokens: int, overlap: int, tokenizer: Path | None) -> None:
        # a passage may be a quarter shorter, where that ends it at a sentence or a paragraph
        capacity = (tokens * 3 // 4, tokens)
        if tokenizer is None:
            wide = (capacity[0] * CHARS_PER_TOKEN, capacity[1] * CHARS_PER_TOKEN)
            self._plain: Any = TextSplitter(wide, overlap * CHARS_PER_TOKEN)
            self._markdown: Any = MarkdownSplitter(wide, overlap * CHARS_PER_TOKEN)
        else:
            source = _measuring(tokenizer)
            self._plain = TextSplitter.from_huggingface_tokenizer_str(source, capacity, overlap)
            self._markdown = MarkdownSplitter.from_huggingface_tokenizer_str(source, capacity, overlap)
        self._longest = tokens * LONGEST_CHARS_PER_TOKEN
        self._offset = 0

    def split(self, section: Section) -> Iterator[Chunk]:
        """Called with a document's sections in order."""
        splitter = self._markdown if section.markdown else self._plain
        if section.text:
            for start, text in splitter.chunk_indices(section.text):
                for part in range(0, len(text), self._longest):
                    chunk, first = text[part : part + self._longest], self._offset + start + part
                    if visible(chunk):
                        yield Chunk(chunk, first, first + len(chunk), section.page, section.headings)
            self._offset += len(section.text) + GAP

    def begin(self) -> None:
        self._offset = 0


def _measuring(tokenizer: Path) -> str:
    """A tokenizer that cuts and fills would measure every text as equally long."""
    document = json.loads(tokenizer.read_text("utf-8"))
    return json.dumps({**document, "truncation": None, "padding": None})
