"""The parsing process: `python -m apps.rag.parsing.worker`. A line of JSON in names a file; lines of JSON come out.

In: {"path", "name"}, where the path is the spool's. Out: {"page": 1}, {"chunk": {...}}, and at the end of a file
{"done": {"kind", "pages", "metadata", "warnings"}} or {"error": {"message", "field"}}. It holds no secret and opens
nothing but that path; it starts nothing but tesseract, which has the same limits. Passages are cut by tokens with
overlap, each with its span in the document's text.
"""

import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from apps.core.errors import InvalidValue
from apps.rag.normalization import visible
from apps.rag.parsing.formats import sections_of, unreadable
from apps.rag.parsing.process_limits import ProcessLimits
from apps.rag.parsing.sections import Chunk, OcrOptions, Reading, Section

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


BLANKS = re.compile(r"[^\S\n]{16,}")
LINES = re.compile(r"\n{4,}")


def main() -> None:
    options = json.loads(sys.stdin.readline())
    limits = ProcessLimits(options["memory"], options["seconds"])
    # whatever a library has to say of a file is not for the operator's log
    logging.disable()
    warnings.simplefilter("ignore")
    tokenizer = Path(options["tokenizer"]) if options["tokenizer"] else None
    splitter = Splitter(options["tokens"], options["overlap"], tokenizer)
    ocr = OcrOptions.of(options["ocr"])
    _say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        limits.begin_file()
        for event in events_of(Path(order["path"]), order["name"], splitter, options["chars"], ocr):
            _say(event)


def events_of(path: Path, name: str, splitter: Splitter, most_chars: int, ocr: OcrOptions) -> Iterator[dict[str, Any]]:
    """What is said of one file: its pages and passages, and at the end how it went."""
    try:
        with path.open("rb") as file:
            yield from _parsed(file, name, splitter, most_chars, ocr)
    except InvalidValue as error:
        yield {"error": {"message": error.message, "field": error.field}}
    except MemoryError:
        yield {"error": {"message": unreadable("It needs more memory than is allowed").message, "field": "file"}}
    except Exception as error:
        # a parser says no in a hundred ways; the class of the error is what may be shown
        reason = unreadable(f"It is damaged, or not what it says ({type(error).__name__})").message
        yield {"error": {"message": reason, "field": "file"}}


def _parsed(
    file: BinaryIO, name: str, splitter: Splitter, most_chars: int, ocr: OcrOptions
) -> Iterator[dict[str, Any]]:
    reading = Reading(ocr)
    kind, sections = sections_of(file, name, reading)
    splitter.begin()
    chars, pages, empty = 0, 0, True
    for section in sections:
        if section.page is not None:
            pages = section.page
            yield {"page": pages}
        text = LINES.sub("\n\n\n", BLANKS.sub(" " * 16, section.text))
        chars += len(text)
        if chars > most_chars:
            raise unreadable(f"It holds more than {most_chars} characters of text")
        for chunk in splitter.split(Section(text, section.page, section.headings, section.markdown)):
            empty = False
            yield {"chunk": chunk.as_json()}
    if empty:
        raise unreadable(" ".join(["There is no text in it.", *reading.warnings]))
    read = {"metadata": dict(reading.metadata), "warnings": reading.warnings}
    yield {"done": {"kind": kind, "pages": pages, **read}}


def _say(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
