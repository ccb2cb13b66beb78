"""An OpenDocument text as kreuzberg reads it whole: `content.xml` written anew, with what it passes over.

Frames that are anchored to a page become paragraphs, comments and repeated cells are kept, headers and footers of
`styles.xml` stand first, and notes after their paragraph. Streams: no tree, so none can be deep.
"""

import io
import zipfile
from collections.abc import Mapping
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from apps.rag.parsing.packages import read_part
from apps.rag.parsing.word_repair import DEEPEST, SHIELDED

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


def repaired(archive: zipfile.ZipFile) -> bytes:
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

    def _begin_kept(self, name: str, told: Mapping[str, str]) -> None:
        level = told.get("outline-level", "1")
        attribute = f" text:outline-level={quoteattr(level)}" if name == "h" else ""
        if name == "table-cell":
            repeated = told.get("number-columns-repeated", "1")
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
