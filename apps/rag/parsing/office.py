"""Word processing, spreadsheets, RTF and Outlook messages, by kreuzberg: its document structure as Markdown.

The structure and not kreuzberg's own Markdown, which escapes what people search for and pads tables.
"""

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO
from xml.etree import ElementTree
from xml.parsers.expat import ExpatError

import kreuzberg

from apps.rag.parsing.formats import too_large, unreadable
from apps.rag.parsing.open_document import repaired as repaired_open_document
from apps.rag.parsing.packages import TooLarge, check_sizes
from apps.rag.parsing.sections import Reading, Section, SectionBuilder
from apps.rag.parsing.word_repair import repaired as repaired_word
from apps.rag.parsing.word_repair import unshielded

OOXML = "application/vnd.openxmlformats-officedocument."
WORD = OOXML + "wordprocessingml.document"
SHEET = OOXML + "spreadsheetml.sheet"
ODT = "application/vnd.oasis.opendocument.text"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
# a spreadsheet knows dates as moments
MIDNIGHT = re.compile(r"^(\d{4}-\d\d-\d\d) 00:00:00$")
MARKERS = re.compile(r"\[\^\w+\]:? ?")
PICTURE = re.compile(r"!\[([^\]\n]*)\]\([^)\n]*\)")
NOT_READ = (
    (re.compile(r"/media/|^Pictures/", re.IGNORECASE), "pictures"),
    (re.compile(r"/charts/chart\d*\.xml$|^Object \d+/$", re.IGNORECASE), "charts"),
    (re.compile(r"xl/(?:comments\d*|threadedComments/.+)\.xml$", re.IGNORECASE), "parts with comments"),
)


def docx_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    with _archive(file) as archive:
        try:
            package = repaired_word(archive, reading.warn)
        except TooLarge:
            raise too_large() from None
        except (ElementTree.ParseError, ExpatError, KeyError) as error:
            raise _damaged(error) from error
    yield from _sections(package, WORD, reading)


def xlsx_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    yield from _checked(file, SHEET, reading)


def ods_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    yield from _checked(file, ODS, reading)


def odt_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    with _archive(file) as archive:
        _warn_of_parts(archive, reading)
        try:
            package = repaired_open_document(archive)
        except TooLarge:
            raise too_large() from None
        except (ExpatError, KeyError) as error:
            raise _damaged(error) from error
    yield from _sections(package, ODT, reading)


def rtf_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    data = file.read()
    if pictures := data.count(b"\\pict"):
        reading.warn(f"pictures not read: {pictures}")
    yield from _sections(data, "application/rtf", reading)


def extracted(data: bytes, media_type: str) -> Any:
    """kreuzberg's result with its document structure. Raises InvalidValue."""
    config = kreuzberg.ExtractionConfig(
        use_cache=False,
        enable_quality_processing=False,
        include_document_structure=True,
        content_filter=kreuzberg.ContentFilterConfig(
            include_headers=True, include_footers=True, include_watermarks=True, strip_repeating_text=False
        ),
    )
    try:
        return kreuzberg.extract_bytes_sync(data, media_type, config=config)
    except kreuzberg.KreuzbergError as error:
        if "password" in str(error).lower() or "encrypt" in str(error).lower():
            raise unreadable("It is encrypted with a password") from None
        raise _damaged(error) from error


def structure_sections(nodes: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Of kreuzberg's flat list of nodes, in reading order."""
    builder = SectionBuilder()
    seen = ""
    for node in nodes:
        content = node["content"]
        kind = content["node_type"]
        if kind == "heading":
            builder.heading(content["level"], _text(content["text"]))
        elif kind == "table":
            builder.table(_rows(content["grid"]))
        elif kind == "metadata_block":
            builder.block("\n".join(f"{name}: {_text(value)}" for name, value in content["entries"]))
        elif kind == "list_item":
            builder.item(_text(content["text"]))
        elif kind not in ("group", "list", "slide") and content.get("text"):
            text = _text(content["text"])
            # RTF's headers come twice in a row
            if text != seen or node.get("content_layer") not in ("header", "footer"):
                builder.block(text)
            seen = text
    return builder.finish()


def _sections(data: bytes, media_type: str, reading: Reading) -> Iterator[Section]:
    result = extracted(data, media_type)
    for warning in result.processing_warnings:
        reading.warn(str(warning.message)[:200])
    yield from structure_sections(result.document["nodes"] if result.document else [])


def _checked(file: BinaryIO, media_type: str, reading: Reading) -> Iterator[Section]:
    with _archive(file) as archive:
        _warn_of_parts(archive, reading)
    file.seek(0)
    yield from _sections(file.read(), media_type, reading)


def _archive(file: BinaryIO) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(file)
    try:
        check_sizes(archive)
    except TooLarge:
        raise too_large() from None
    return archive


def _warn_of_parts(archive: zipfile.ZipFile, reading: Reading) -> None:
    for pattern, what in NOT_READ:
        count = sum(1 for name in archive.namelist() if pattern.search(name))
        if count:
            reading.warn(f"{what} not read: {count}")


def _damaged(error: Exception) -> Exception:
    return unreadable(f"It is damaged, or not what it says ({type(error).__name__})")


def _text(text: str) -> str:
    return unshielded(PICTURE.sub(r"\1", MARKERS.sub("", text)))


def _rows(grid: Mapping[str, Any]) -> list[list[str]]:
    rows = [[""] * grid["cols"] for _ in range(grid["rows"])]
    for cell in grid["cells"]:
        rows[cell["row"]][cell["col"]] = MIDNIGHT.sub(r"\1", _text(cell["content"]))
    return rows
