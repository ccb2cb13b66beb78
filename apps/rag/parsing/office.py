"""Word processing, spreadsheets, RTF and Outlook messages, by kreuzberg: its document structure as Markdown.

The structure and not kreuzberg's own Markdown, which escapes what people search for and pads tables.

An OpenDocument text is written anew before, with what kreuzberg passes over. Frames that are anchored to a page become
paragraphs, comments and repeated cells are kept, headers and footers of `styles.xml` stand first, and notes after their
paragraph. Streams: no tree, so none can be deep.
"""

import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO
from xml.etree import ElementTree
from xml.parsers import expat
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape, quoteattr

import kreuzberg

from apps.rag.parsing.formats import too_large, unreadable
from apps.rag.parsing.packages import TooLarge, check_sizes, read_part
from apps.rag.parsing.sections import Reading, Section, SectionBuilder
from apps.rag.parsing.word_repair import DEEPEST, SHIELDED, unshielded
from apps.rag.parsing.word_repair import repaired as repaired_word

NAMESPACES = {
    "office": "urn:oasis:names:tc:opendocument:xmlns:office:1.0",
    "text": "urn:oasis:names:tc:opendocument:xmlns:text:1.0",
    "table": "urn:oasis:names:tc:opendocument:xmlns:table:1.0",
}
DECLARED = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
MANIFEST = (
    '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"><manifest:file-entry '
    'manifest:full-path="/" manifest:media-type="application/vnd.oasis.opendocument.text"/></manifest:manifest>'
)
KEPT = {
    **dict.fromkeys(("p", "h", "list", "list-item"), "text"),
    **dict.fromkeys(("table", "table-row", "table-cell"), "table"),
}
DROPPED_NAMES = """
tracked-changes note-citation date creator sender-firstname forms script meta-creator-initials change change-start
change-end creator-initials
"""
DROPPED = frozenset(DROPPED_NAMES.split())
CHARACTERS = {"tab": "\t", "line-break": "\n", "soft-page-break": ""}
AFTER = frozenset({"note-body", "annotation", "text-box"})
MOST_BLANKS = 100
MOST_REPEATED = 64


def repaired_open_document(archive: zipfile.ZipFile) -> bytes:
    """Raises KeyError, expat.ExpatError and TooLarge."""
    try:
        margins = _Writer("master-styles").written(read_part(archive, "styles.xml"))
    except KeyError:
        margins = ""
    body = margins + _Writer("text").written(read_part(archive, "content.xml"))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as made:
        made.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        made.writestr("META-INF/manifest.xml", MANIFEST)
        content = f"<office:body><office:text>{body}</office:text></office:body>"
        made.writestr("content.xml", f"<office:document-content {DECLARED}>{content}</office:document-content>")
    return out.getvalue()


class _Writer:
    """Used once; takes what is in the office element of that name."""

    def __init__(self, within: str) -> None:
        self._within = within
        self._inside = 0
        self._silent = 0
        self._depth = 0
        self._paragraphs: list[int] = []
        self._out: list[list[str]] = [[]]
        self._after: list[str] = []
        self._open: list[str] = []
        self._repeats: list[int] = []

    def written(self, data: bytes) -> str:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.Parse(data, True)
        return "".join(self._out[0])

    def _start(self, tag: str, attributes: Mapping[str, str]) -> None:
        uri, _, name = tag.rpartition(" ")
        self._depth += 1
        if self._depth > DEEPEST:
            raise expat.ExpatError("too deep")
        self._open.append(name)
        if uri == NAMESPACES["office"] and name == self._within:
            self._inside += 1
        if not self._inside:
            return
        if self._silent or name in DROPPED:
            self._silent += 1
        elif name in AFTER:
            self._out.append([])
            self._paragraphs.append(0)
        elif name in KEPT:
            self._begin_kept(name, {key.rpartition(" ")[2]: value for key, value in attributes.items()})
        elif name == "s":
            count = next((value for key, value in attributes.items() if key.endswith(" c")), "1")
            self._characters(" " * min(int(count) if count.isdigit() else 1, MOST_BLANKS))
        elif name in CHARACTERS:
            self._characters(CHARACTERS[name])

    def _end(self, tag: str) -> None:
        uri, _, name = tag.rpartition(" ")
        self._depth -= 1
        self._open.pop()
        if not self._inside:
            return
        if uri == NAMESPACES["office"] and name == self._within:
            self._inside -= 1
        elif self._silent:
            self._silent -= 1
        elif name in AFTER:
            self._end_after()
        elif name in KEPT:
            self._end_kept(name)

    def _begin_kept(self, name: str, attributes: Mapping[str, str]) -> None:
        level = attributes.get("outline-level", "1")
        attribute = f" text:outline-level={quoteattr(level)}" if name == "h" else ""
        if name == "table-cell":
            repeated = attributes.get("number-columns-repeated", "1")
            self._repeats.append(min(int(repeated), MOST_REPEATED) if repeated.isdigit() else 1)
            self._out.append([])
        self._put(f"<{KEPT[name]}:{name}{attribute}>")
        if name in ("p", "h"):
            self._enter(1)

    def _end_kept(self, name: str) -> None:
        self._put(f"</{KEPT[name]}:{name}>")
        if name in ("p", "h"):
            self._enter(-1)
            if not self._within_paragraph() and self._after:
                after, self._after = self._after, []
                self._put("".join(after))
        if name == "table-cell":
            cell, times = "".join(self._out.pop()), self._repeats.pop()
            self._put(cell * times)

    def _end_after(self) -> None:
        written = "".join(self._out.pop())
        self._paragraphs.pop()
        if self._within_paragraph():
            self._after.append(written)
        else:
            self._put(written)

    def _enter(self, change: int) -> None:
        if not self._paragraphs:
            self._paragraphs.append(0)
        self._paragraphs[-1] += change

    def _within_paragraph(self) -> bool:
        return bool(self._paragraphs) and self._paragraphs[-1] > 0

    def _characters(self, text: str) -> None:
        if self._inside and not self._silent and self._within_paragraph():
            self._put(escape(text.translate(SHIELDED)))

    def _put(self, written: str) -> None:
        self._out[-1].append(written)


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
    (re.compile(r"xl/(?:comments\d*|comments/.+|threadedComments/.+)\.xml$", re.IGNORECASE), "parts with comments"),
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
