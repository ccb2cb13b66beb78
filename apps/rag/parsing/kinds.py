"""What a file is, judged by its content; its name decides only among kinds of text, and must not lie."""

import codecs
import zipfile
from pathlib import PurePosixPath
from typing import BinaryIO

from apps.core.errors import InvalidValue
from apps.rag.records import Kind

BY_SUFFIX: dict[str, Kind] = {
    ".pdf": "pdf",
    ".docx": "docx",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".text": "text",
    ".rst": "text",
    ".log": "text",
}
TEXTUAL = frozenset({"html", "markdown", "text", "csv"})
WORDS: dict[Kind, str] = {"pdf": "a PDF", "docx": "a DOCX", "html": "HTML", "markdown": "text", "text": "text"}
SIGNATURES = {
    b"\xd0\xcf\x11\xe0": "an old Office document (save it as DOCX)",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"\x7fELF": "a program",
    b"MZ\x90": "a program",
    b"{\\rtf": "RTF (save it as DOCX)",
}
BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
HEAD = 4096


def kind_of(file: BinaryIO, name: str) -> Kind:
    """Raises InvalidValue where nothing here can read it, or where the name says something else."""
    head = file.read(HEAD)
    file.seek(0)
    suffix = PurePosixPath(name).suffix.lower()
    said = BY_SUFFIX.get(suffix)
    found = _by_content(file, head, said)
    file.seek(0)
    if said is not None and said != found and not (said in TEXTUAL and found in TEXTUAL):
        raise unreadable(f"Its name ends with {suffix}, but it is {WORDS.get(found, found)}")
    return found


def unreadable(reason: str) -> InvalidValue:
    """The one error of a file that cannot be taken in."""
    return InvalidValue(f"The file cannot be read. {reason}", field="file")


def _by_content(file: BinaryIO, head: bytes, said: Kind | None) -> Kind:
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zipped(file)
    for signature, what in SIGNATURES.items():
        if head.startswith(signature):
            raise unreadable(f"It is {what}")
    if b"\0" in head and not head.startswith(BOMS):
        raise unreadable("It is neither text nor a format that is known here")
    if said in ("html", "markdown", "csv", "text"):
        return said
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "html" if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) else "text"


def _zipped(file: BinaryIO) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = {info.filename for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
        raise unreadable("It is a damaged ZIP archive") from error
    if "word/document.xml" in names and "[Content_Types].xml" in names:
        return "docx"
    raise unreadable("It is a ZIP archive, and not a DOCX")


def decoded(data: bytes) -> str:
    """Text in UTF-8, or in what its byte order mark says. Raises InvalidValue."""
    encoding = "utf-8-sig"
    for mark in BOMS[1:]:
        if data.startswith(mark):
            encoding = "utf-32" if len(mark) == 4 else "utf-16"
            break
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise unreadable("It is not UTF-8 text; save it as UTF-8") from error
    if "\0" in text:
        raise unreadable("It is neither text nor a format that is known here")
    return text.replace("\r\n", "\n").replace("\r", "\n")
