"""The parsing process: `python -m apps.rag.parsing.worker`. A line of JSON in names a file; lines of JSON come out.

In: {"path", "name"}, where the path is the spool's. Out: {"page": 1}, {"chunk": {...}}, and at the end of a file
{"done": {"kind", "pages", "metadata", "warnings"}} or {"error": {"message", "field"}}. It holds no secret and opens
nothing but that path; it starts nothing but tesseract, which has the same limits.
"""

import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from apps.core.errors import InvalidValue
from apps.rag.parsing.formats import sections_of
from apps.rag.parsing.kinds import unreadable
from apps.rag.parsing.process_limits import ProcessLimits
from apps.rag.parsing.sections import OcrOptions, Reading, Section
from apps.rag.parsing.splitting import Splitter

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
    told = options["ocr"]
    command = Path(told["command"]) if told["command"] else None
    ocr = OcrOptions(command, told["languages"], told["reason"])
    _say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        limits.begin_file()
        for event in _events(Path(order["path"]), order["name"], splitter, options["chars"], ocr):
            _say(event)


def _events(path: Path, name: str, splitter: Splitter, most_chars: int, ocr: OcrOptions) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            yield from _parsed(file, name, splitter, most_chars, ocr)
    except InvalidValue as error:
        yield {"error": {"message": error.message, "field": error.field}}
    except MemoryError:
        yield {"error": {"message": unreadable("It needs more memory than is allowed").message, "field": "file"}}
    except Exception as error:
        # a parser says no in a hundred ways; the class of the error is what may be told
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
    told = {"metadata": dict(reading.metadata), "warnings": reading.warnings}
    yield {"done": {"kind": kind, "pages": pages, **told}}


def _say(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
