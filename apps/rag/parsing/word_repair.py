"""A word-processing package as the plainest one that says the same, before kreuzberg reads it.

kreuzberg (4.10) looks for fixed names of parts, drops `&`, `<` and `>`, keeps what a tracked move took away, splits
words at formatting, and loses comments and some notes. So the main part is written anew with nothing but paragraphs,
runs, tables, their styles and lists: wrappers are opened, deletions left out, text boxes, notes and comments become
paragraphs after the one they belong to, headers and footers stand first. Streams: no tree, so none can be deep.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from apps.rag.parsing.packages import Relationship, main_part, read_part, relationships
from apps.rag.parsing.sections import Warn

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    '<Override PartName="/word/document.xml" ContentType='
    '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"
RELATIONS = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'
RELATION = '<Relationship Id="r{0}" Type="' + OFFICE + '{0}" Target="{1}"/>'
STYLE = (
    '<w:style w:type="paragraph" w:styleId="Heading{0}"><w:name w:val="heading {0}"/>'
    '<w:pPr><w:outlineLvl w:val="{1}"/></w:pPr></w:style>'
)
STYLES = f'<w:styles xmlns:w="{W}">{"".join(STYLE.format(level, level - 1) for level in range(1, 10))}</w:styles>'
# what kreuzberg drops stands for itself as a private character, on the way through it
SHIELD = {"&": "\ue0f1", "<": "\ue0f2", ">": "\ue0f3"}
SHIELDED = str.maketrans(SHIELD)
UNSHIELDED = str.maketrans({shield: char for char, shield in SHIELD.items()})
DEEPEST = 1000

DROPPED_NAMES = """
del moveFrom delText delInstrText instrText sectPr rPr tblPr tblGrid trPr tcPr sdtPr sdtEndPr rt binData footnotePr
endnotePr annotationRef footnoteRef endnoteRef customXmlPr
"""
DROPPED = frozenset(DROPPED_NAMES.split())
KEPT = frozenset(["p", "r", "tbl", "tr", "tc", "pPr", "numPr", "ilvl", "numId"])
CHARACTERS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "softHyphen": "\u00ad"}
TEXT = frozenset({"t"})
NOT_READ = {
    "pic": "pictures",
    "imagedata": "pictures",
    "altChunk": "embedded documents",
    "OLEObject": "embedded objects",
}
NOTES = {"footnoteReference": "footnotes", "endnoteReference": "endnotes", "commentReference": "comments"}


def unshielded(text: str) -> str:
    return text.translate(UNSHIELDED)


def repaired(archive: zipfile.ZipFile, warn: Warn) -> bytes:
    """A DOCX of today with the same text. Raises KeyError, ElementTree.ParseError, expat.ExpatError and TooLarge."""
    main = main_part(archive).name
    related = relationships(archive, main)
    parts = {kind: _first(related, kind) for kind in ("styles", "numbering", "footnotes", "endnotes", "comments")}
    styles = _heading_styles(_read(archive, parts["styles"]))
    notes = {kind: _notes(_read(archive, parts[kind]), kind, styles) for kind in NOTES.values()}
    writer = _Writer(styles, notes)
    margins = dict.fromkeys(one.target for one in related if one.kind in ("header", "footer"))
    written = [_Writer(styles, notes).written(_read(archive, name)) for name in margins]
    written.append(writer.written(read_part(archive, main)))
    drawn = [one.target for one in related if one.kind in ("diagramData", "chart")]
    written += [_Writer(styles, {}, drawing=True).written(_read(archive, name)) for name in drawn]
    for what, count in writer.unread.items():
        warn(f"{what} not read: {count}")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as made:
        made.writestr("[Content_Types].xml", TYPES)
        made.writestr("_rels/.rels", RELATIONS.format(RELATION.format(*("officeDocument", "word/document.xml"))))
        kept = {"numbering": _read(archive, parts["numbering"]), "styles": STYLES.encode()}
        links = "".join(RELATION.format(kind, f"{kind}.xml") for kind, data in kept.items() if data)
        made.writestr("word/_rels/document.xml.rels", RELATIONS.format(links))
        for kind, data in kept.items():
            if data:
                made.writestr(f"word/{kind}.xml", data)
        made.writestr(
            "word/document.xml", f'<w:document xmlns:w="{W}"><w:body>{"".join(written)}</w:body></w:document>'
        )
    return out.getvalue()


def _first(related: list[Relationship], kind: str) -> str:
    return next((one.target for one in related if one.kind == kind and not one.external), "")


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """Empty where the part is not there: what a relationship names may be missing."""
    try:
        return read_part(archive, name) if name else b""
    except KeyError:
        return b""


def _heading_styles(data: bytes) -> dict[str, int]:
    """Level of each paragraph style that is a heading by its name, its outline level or what it is based on."""
    levels: dict[str, int] = {}
    based: dict[str, str] = {}
    if not data:
        return levels
    for style in ElementTree.fromstring(data):  # noqa: S314 - see the import
        elements = {_local(element.tag): element for element in style.iter()}
        id = _value(style, "styleId")
        name = _value(elements["name"]).lower() if "name" in elements else ""
        if name == "title":
            levels[id] = 1
        elif name.startswith("heading ") and name[8:].isdigit():
            levels[id] = int(name[8:])
        elif (
            "outlineLvl" in elements
            and _value(elements["outlineLvl"]).isdigit()
            and int(_value(elements["outlineLvl"])) < 9
        ):
            levels[id] = int(_value(elements["outlineLvl"])) + 1
        elif "basedOn" in elements:
            based[id] = _value(elements["basedOn"])
    for id in based:
        above, steps = based[id], 0
        while above in based and above not in levels and steps < 20:
            above, steps = based[above], steps + 1
        if above in levels:
            levels[id] = levels[above]
    return levels


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _value(element: ElementTree.Element, name: str = "val") -> str:
    return next((value for key, value in element.attrib.items() if _local(key) == name), "")


def _notes(data: bytes, kind: str, styles: Mapping[str, int]) -> dict[str, str]:
    """Paragraphs of each note by its id."""
    if not data:
        return {}
    return _Writer(styles, {}, notes_of=kind.removesuffix("s")).notes_in(data)


class _Writer:
    """Used once. ``drawing`` takes the texts of a chart or diagram, each a paragraph."""

    def __init__(
        self,
        styles: Mapping[str, int],
        notes: Mapping[str, Mapping[str, str]],
        *,
        notes_of: str = "",
        drawing: bool = False,
    ) -> None:
        self.unread: dict[str, int] = {}
        self._styles = styles
        self._notes = notes
        self._notes_of = notes_of
        self._drawing = drawing
        self._out: list[list[str]] = [[]]
        self._open: list[tuple[str, Callable[[], None] | None]] = []
        self._silent = 0
        self._text = 0
        self._paragraphs = 0
        self._after: list[str] = []
        self._found: dict[str, str] = {}
        self._chosen: list[bool] = []
        self._written_characters = 0
        self._hidden = False

    def written(self, data: bytes) -> str:
        if not data:
            return ""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.Parse(data, True)
        return "".join(self._out[0])

    def notes_in(self, data: bytes) -> dict[str, str]:
        self.written(data)
        return self._found

    def _start(self, tag: str, attributes: Mapping[str, str]) -> None:
        name = tag.rpartition(" ")[2]
        values = {key.rpartition(" ")[2]: value for key, value in attributes.items()}
        if len(self._open) > DEEPEST:
            raise expat.ExpatError("too deep")
        closing: Callable[[], None] | None = None
        if self._silent or name in DROPPED:
            if name == "vanish" and values.get("val", "1") not in ("0", "false", "off"):
                self._hide()
            self._silent += 1
            closing = self._speak
        elif name in NOT_READ:
            self.unread[NOT_READ[name]] = self.unread.get(NOT_READ[name], 0) + 1
        else:
            closing = self._begin(name, values)
        self._open.append((name, closing))

    def _end(self, tag: str) -> None:
        _, closing = self._open.pop()
        if closing is not None:
            closing()

    def _begin(self, name: str, values: Mapping[str, str]) -> Callable[[], None] | None:
        if name == self._notes_of:
            return self._begin_note(values)
        if name == "txbxContent":
            self._out.append([])
            return self._end_box
        if name == "Choice":
            before = self._written_characters
            return lambda: self._chosen.append(self._written_characters > before)
        if name == "Fallback" and self._chosen and self._chosen.pop():
            self._silent += 1
            return self._speak
        if name in TEXT or (self._drawing and name == "v"):
            return self._begin_text()
        if name in CHARACTERS and self._open and self._open[-1][0] == "r":
            self._say(CHARACTERS[name])
            return None
        if name in NOTES:
            self._after.append(self._notes.get(NOTES[name], {}).get(values.get("id", ""), ""))
            return None
        return self._begin_kept(name, values)

    def _begin_kept(self, name: str, values: Mapping[str, str]) -> Callable[[], None] | None:
        if name == "sym" and values.get("char"):
            # symbol fonts have their characters in the private area, above those that they stand for
            code = int(values["char"], 16)
            self._say(chr(code - 0xF000) if 0xF020 <= code <= 0xF0FF else chr(code) if code < 0xD800 else "")
            return None
        if name in ("pStyle", "outlineLvl"):
            self._style(name, values.get("val", ""))
            return None
        if name not in KEPT or self._drawing:
            return None
        if name == "p":
            self._paragraphs += 1
        if name == "r":
            self._hidden = False
        value = f" w:val={quoteattr(values['val'])}" if name in ("ilvl", "numId") and "val" in values else ""
        self._put(f"<w:{name}{value}>")
        return lambda: self._end_kept(name)

    def _end_kept(self, name: str) -> None:
        self._put(f"</w:{name}>")
        if name == "r":
            self._hidden = False
        if name == "p":
            self._paragraphs -= 1
            if not self._paragraphs and self._after:
                after, self._after = self._after, []
                self._put("".join(after))

    def _style(self, name: str, value: str) -> None:
        level = self._styles.get(value) if name == "pStyle" else int(value) + 1 if value.isdigit() else None
        if level is not None and level < 10:
            self._put(f'<w:pStyle w:val="Heading{level}"/>')

    def _begin_note(self, values: Mapping[str, str]) -> Callable[[], None]:
        id, author = values.get("id", ""), values.get("author", "")
        self._out.append([])
        if author:
            self._put(f"<w:p><w:r><w:t>Comment by {_shielded(author)}:</w:t></w:r></w:p>")

        def end() -> None:
            self._found[id] = "".join(self._out.pop())

        return end

    def _end_box(self) -> None:
        box = "".join(self._out.pop())
        if self._paragraphs:
            self._after.append(box)
        else:
            self._put(box)

    def _begin_text(self) -> Callable[[], None]:
        self._text += 1
        if self._drawing:
            self._put("<w:p><w:r>")
        self._put('<w:t xml:space="preserve">')
        return self._end_text

    def _end_text(self) -> None:
        self._text -= 1
        self._put("</w:t>")
        if self._drawing:
            self._put("</w:r></w:p>")

    def _characters(self, text: str) -> None:
        if self._text and not self._silent and not self._hidden:
            self._written_characters += len(text)
            self._put(_shielded(text))

    def _say(self, text: str) -> None:
        if not self._hidden:
            self._put(f'<w:t xml:space="preserve">{_shielded(text)}</w:t>')

    def _hide(self) -> None:
        """A run that is not shown; of a paragraph's mark it means nothing."""
        names = [name for name, _ in self._open[-2:]]
        if names == ["r", "rPr"]:
            self._hidden = True

    def _speak(self) -> None:
        self._silent -= 1

    def _put(self, written: str) -> None:
        self._out[-1].append(written)


def _shielded(text: str) -> str:
    return escape(text.translate(SHIELDED))
