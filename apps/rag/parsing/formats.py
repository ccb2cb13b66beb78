"""Which parser reads which kind of file. A parser is imported with the first file of its kind: most are heavy."""

import importlib
from collections.abc import Iterator
from typing import BinaryIO

from apps.rag.parsing.kinds import kind_of
from apps.rag.parsing.sections import Parser, Reading, Section
from apps.rag.records import Kind

PARSERS: dict[Kind, tuple[str, str]] = {
    "pdf": ("pdf", "sections"),
    "docx": ("office", "docx_sections"),
    "xlsx": ("office", "xlsx_sections"),
    "ods": ("office", "ods_sections"),
    "odt": ("office", "odt_sections"),
    "rtf": ("office", "rtf_sections"),
    "pptx": ("slides", "sections"),
    "html": ("html_page", "sections"),
    "epub": ("epub", "sections"),
    "markdown": ("markdown_file", "sections"),
    "text": ("plain", "text_sections"),
    "csv": ("plain", "csv_sections"),
    "email": ("mail", "sections"),
    "msg": ("mail", "msg_sections"),
    "image": ("ocr", "sections"),
}


def parser_of(kind: Kind) -> Parser:
    module, function = PARSERS[kind]
    parser: Parser = getattr(importlib.import_module(f"apps.rag.parsing.{module}"), function)
    return parser


def sections_of(file: BinaryIO, name: str, reading: Reading) -> tuple[Kind, Iterator[Section]]:
    """What the file is, and its text. Raises InvalidValue, and what damaged files make of a parser."""
    kind = kind_of(file, name)
    return kind, parser_of(kind)(file, reading)
