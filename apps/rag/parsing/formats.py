"""What a file is, judged by its content, and which parser reads it.

Its name decides only among kinds of text, and must not lie. A parser is imported with the first file of its kind: most
are heavy.
"""

import importlib
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from apps.core.errors import InvalidValue
from apps.rag.parsing.packages import main_part, media_type
from apps.rag.parsing.sections import Parser, Reading, Section
from apps.rag.records import Kind

BY_SUFFIX: dict[str, Kind] = {
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"), "docx"),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx", ".ppsm", ".potx"), "pptx"),
    **dict.fromkeys((".xlsx", ".xlsm", ".xltx", ".xltm"), "xlsx"),
    **dict.fromkeys((".ods", ".ots"), "ods"),
    **dict.fromkeys((".odt", ".ott"), "odt"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".md", ".markdown"), "markdown"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".txt", ".text", ".rst", ".log"), "text"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp", ".webp"), "image"),
    ".pdf": "pdf",
    ".rtf": "rtf",
    ".epub": "epub",
    ".eml": "email",
    ".msg": "msg",
}
TEXTUAL = frozenset({"html", "markdown", "text", "csv", "email"})
WORDS: dict[Kind, str] = {
    "pdf": "a PDF",
    "docx": "a DOCX",
    "pptx": "a PPTX",
    "xlsx": "an XLSX",
    "odt": "an ODT",
    "ods": "an ODS",
    "rtf": "RTF",
    "epub": "an EPUB",
    "email": "an e-mail",
    "msg": "an Outlook message",
    "image": "an image",
    "html": "HTML",
    "markdown": "text",
    "text": "text",
    "csv": "text",
}
SIGNATURES = {
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x7fELF": "a program",
    b"MZ\x90": "a program",
}
IMAGES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
OLE = b"\xd0\xcf\x11\xe0"
# every Outlook message has streams of this name, written in UTF-16
MSG_STREAM = "__substg1.0_".encode("utf-16-le")
MEDIA_TYPES: dict[str, Kind] = {
    "application/epub+zip": "epub",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.text-template": "odt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.spreadsheet-template": "ods",
}
WIDE = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
HEAD = 4096


def kind_of(file: BinaryIO, name: str) -> Kind:
    """Raises InvalidValue where nothing here can read it, or where the name says something else."""
    head = file.read(HEAD)
    file.seek(0)
    suffix = PurePosixPath(name).suffix.lower()
    by_suffix = BY_SUFFIX.get(suffix)
    found = _by_content(file, head, by_suffix)
    file.seek(0)
    if by_suffix is not None and by_suffix != found and not (by_suffix in TEXTUAL and found in TEXTUAL):
        raise unreadable(f"Its name ends with {suffix}, but it is {WORDS.get(found, found)}")
    return found


def unreadable(reason: str) -> InvalidValue:
    """The one error of a file that cannot be taken in."""
    return InvalidValue(f"The file cannot be read. {reason}", field="file")


def _by_content(file: BinaryIO, head: bytes, by_suffix: Kind | None) -> Kind:
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zipped(file)
    if head.startswith(b"{\\rtf"):
        return "rtf"
    if head.startswith(IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or _is_bmp(head):
        return "image"
    if head.startswith(OLE):
        if MSG_STREAM in file.read():
            return "msg"
        raise unreadable("It is an old Office document (save it as DOCX, XLSX or PPTX)")
    for signature, what in SIGNATURES.items():
        if head.startswith(signature):
            raise unreadable(f"It is {what}")
    if b"\0" in head and not head.startswith(WIDE) and by_suffix not in TEXTUAL:
        raise unreadable("It is neither text nor a format that is known here")
    if by_suffix in TEXTUAL and by_suffix is not None:
        return by_suffix
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "html" if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) else "text"


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and len(head) > 30


def _zipped(file: BinaryIO) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            found = MEDIA_TYPES.get(media_type(archive)) or main_part(archive).kind
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
        raise unreadable("It is a damaged ZIP archive") from error
    if found is None:
        raise unreadable("It is a ZIP archive, and not a document that is known here")
    return found


def too_large() -> Exception:
    return unreadable("It unpacks to more than is allowed")


PARSERS: dict[Kind, tuple[str, str]] = {
    "pdf": ("pdf", "pdf_sections"),
    "docx": ("office", "docx_sections"),
    "xlsx": ("office", "xlsx_sections"),
    "ods": ("office", "ods_sections"),
    "odt": ("office", "odt_sections"),
    "rtf": ("office", "rtf_sections"),
    "pptx": ("slides", "sections"),
    "html": ("html_page", "html_sections"),
    "epub": ("html_page", "epub_sections"),
    "markdown": ("text_files", "markdown_sections"),
    "text": ("text_files", "text_sections"),
    "csv": ("text_files", "csv_sections"),
    "email": ("mail", "sections"),
    "msg": ("mail", "msg_sections"),
    "image": ("pdf", "image_sections"),
}


def parser_of(kind: Kind) -> Parser:
    module, function = PARSERS[kind]
    parser: Parser = getattr(importlib.import_module(f"apps.rag.parsing.{module}"), function)
    return parser


def sections_of(file: BinaryIO, name: str, reading: Reading) -> tuple[Kind, Iterator[Section]]:
    """What the file is, and its text. Raises InvalidValue, and what damaged files make of a parser."""
    kind = kind_of(file, name)
    return kind, parser_of(kind)(file, reading)
