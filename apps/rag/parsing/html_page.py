"""HTML and EPUB, by lexbor (selectolax): the tree that a browser makes of a page, as Markdown under its headings.

kreuzberg's own reading of HTML passes over definition lists, figures, details and text that stands in no paragraph.
An EPUB is its pages in the order of its spine.
"""

import posixpath
import re
import zipfile
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote
from xml.etree import ElementTree

from selectolax.lexbor import LexborHTMLParser, LexborNode

from apps.rag.parsing.formats import too_large, unreadable
from apps.rag.parsing.packages import TooLarge, check_sizes, read_part
from apps.rag.parsing.sections import Reading, Section, SectionBuilder
from apps.rag.parsing.text_encoding import decoded

SILENT_NAMES = """
script style template noscript svg head title iframe object embed canvas audio video datalist rp rt
"""
SILENT = frozenset(SILENT_NAMES.split())
HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCKS_NAMES = """
address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure footer
form header hgroup hr html legend li main menu nav ol optgroup option p section select summary table tbody td textarea
tfoot th thead tr ul
"""
BLOCKS = frozenset(BLOCKS_NAMES.split())
INSIDE_UNCLOSED_NAMES = """
p ul ol dl table blockquote section article pre form hr
"""
INSIDE_UNCLOSED = frozenset(INSIDE_UNCLOSED_NAMES.split())
# no page that was written for people comes near
DEEPEST = 1000
NOT_SHOWN = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
# a browser's parser is quadratic in what is open, so the depth is looked at before it begins
TAG = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style|textarea|title)\b.*?(?:</\1|\Z)|<(/?)([a-z][a-z0-9]*)", re.IGNORECASE | re.DOTALL
)
CLOSED_BY_ITSELF_NAMES = """
area base br col embed hr img input link meta source track wbr param html head body p li dt dd tr td th thead tbody
tfoot colgroup caption option optgroup rp rt
"""
CLOSED_BY_ITSELF = frozenset(CLOSED_BY_ITSELF_NAMES.split())


def html_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    yield from page_sections(decoded(file.read(), reading.warn, declares=True), reading)


def page_sections(page: str, reading: Reading) -> list[Section]:
    if _depth(page) > DEEPEST:
        raise unreadable(f"Its elements are nested more than {DEEPEST} deep")
    root = LexborHTMLParser(page).root
    if root is None:
        return []
    reader = _Reader(reading)
    reader.read(root)
    return reader.finish()


def _depth(page: str) -> int:
    """How many elements are open at once, at most; those that close each other are not counted."""
    depth = deepest = 0
    for tag in TAG.finditer(page):
        if tag[3] and tag[3].lower() not in CLOSED_BY_ITSELF:
            depth = max(depth - 1, 0) if tag[2] else depth + 1
            deepest = max(deepest, depth)
    return deepest


class _Reader:
    """Walks without recursion, so that a deep tree meets our limit and not the interpreter's."""

    def __init__(self, reading: Reading) -> None:
        self._builder = SectionBuilder()
        self._reading = reading
        self._line: list[str] = []
        self._pre = 0
        self._pictures = 0
        self._item = False
        self._emitted: set[int] = set()

    def read(self, root: LexborNode) -> None:
        node: LexborNode | None = root
        depth = 0
        while node is not None:
            goes_in = self._enter(node)
            if goes_in and node.first_child is not None:
                node, depth = node.first_child, depth + 1
                if depth > DEEPEST:
                    raise unreadable(f"Its elements are nested more than {DEEPEST} deep")
                continue
            if goes_in:
                self._leave(node)
            while node is not None and node is not root and node.next is None:
                node, depth = node.parent, depth - 1
                if node is not None:
                    self._leave(node)
            if node is None or depth <= 0:
                return
            node = node.next

    def finish(self) -> list[Section]:
        self._end_line()
        if self._pictures:
            self._reading.warn(f"pictures not read: {self._pictures}")
        return self._builder.finish()

    def _enter(self, node: LexborNode) -> bool:
        tag = node.tag
        if node.mem_id in self._emitted:
            return False
        if tag == "-text":
            text = node.text_content or ""
            self._line.append(text if self._pre else _spaced(text))
            return False
        if tag is None or tag.startswith(("-", "_", "!")) or tag in SILENT or _hidden(node):
            return False
        if tag in HEADINGS:
            self._end_line()
            heading, rest = _heading(node)
            self._builder.heading(HEADINGS[tag], heading)
            self._emitted |= {child.mem_id for child in node.iter(include_text=True)} - rest
            return bool(rest)
        if tag == "table" and (rows := _rows(node)) is not None:
            self._end_line()
            self._builder.table(rows)
            return False
        return self._enter_other(node, tag)

    def _enter_other(self, node: LexborNode, tag: str) -> bool:
        if tag == "br":
            self._line.append("\n")
            return False
        if tag == "img":
            self._pictures += 1
            self._line.append(f" {node.attributes.get('alt') or ''} ")
            return False
        if tag == "input":
            kind = (node.attributes.get("type") or "text").lower()
            if kind not in ("hidden", "password"):
                self._line.append(f" {node.attributes.get('value') or ''} ")
            return False
        if tag in BLOCKS or tag == "pre":
            self._end_line()
        self._pre += tag == "pre"
        self._item = tag == "li" or (self._item and tag not in BLOCKS)
        return True

    def _leave(self, node: LexborNode) -> None:
        if node.tag in BLOCKS or node.tag == "pre":
            self._end_line()
        self._pre -= node.tag == "pre"

    def _end_line(self) -> None:
        text = "".join(self._line)
        self._line = []
        if not self._pre:
            text = "\n".join(" ".join(line.split(" ")).strip() for line in re.sub(" {2,}", " ", text).split("\n"))
        if text.strip():
            (self._builder.item if self._item else self._builder.block)(text)
            self._item = False


def _spaced(text: str) -> str:
    """Runs of white space are one blank, as in a browser; a no-break space is one of its own."""
    return re.sub(r"[ \t\n\r\f]+", " ", text).replace("\u00a0", " ")


def _hidden(node: LexborNode) -> bool:
    attributes = node.attributes
    return "hidden" in attributes or bool(NOT_SHOWN.search(attributes.get("style") or ""))


def _heading(node: LexborNode) -> tuple[str, set[int]]:
    """Its text, and the children that are none of it: where a heading is not closed, paragraphs follow inside."""
    before: list[str] = []
    children = list(node.iter(include_text=True))
    for number, child in enumerate(children):
        if (child.tag or "") in INSIDE_UNCLOSED:
            return " ".join("".join(before).split()), {one.mem_id for one in children[number:]}
        before += _shown(child)
    return " ".join("".join(before).split()), set()


def _words(node: LexborNode) -> str:
    """The text that is seen in an element, in one line."""
    return " ".join("".join(_shown(node)).split())


def _shown(top: LexborNode) -> Iterator[str]:
    waiting: list[LexborNode | str] = [top]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            yield node
            continue
        tag = node.tag or ""
        if tag == "-text":
            yield _spaced(node.text_content or "")
        elif tag == "br":
            yield " "
        elif tag == "img":
            yield f" {node.attributes.get('alt') or ''} "
        elif not tag.startswith(("-", "_", "!")) and tag not in SILENT and not _hidden(node):
            children = list(node.iter(include_text=True))
            spaced = tag in BLOCKS
            waiting += [" "] if spaced else []
            waiting += reversed(children)
            waiting += [" "] if spaced else []


def _rows(table: LexborNode) -> list[list[str]] | None:
    """Cells of a table of data; None for one that lays out a page: with headings or tables in its cells."""
    if table.css_first("h1,h2,h3,h4,h5,h6,table table,p + p + p,ul ul") is not None:
        return None
    rows = [[_words(cell) for cell in row.iter() if cell.tag in ("td", "th")] for row in table.css("tr")]
    caption = table.css_first("caption")
    if caption is not None:
        rows.insert(0, [_words(caption)])
    return rows


PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def epub_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    with zipfile.ZipFile(file) as archive:
        try:
            check_sizes(archive)
            if "META-INF/encryption.xml" in archive.namelist() and "META-INF/rights.xml" in archive.namelist():
                raise unreadable("It is encrypted")
            for name in _spine(archive):
                try:
                    page = decoded(read_part(archive, name), reading.warn, declares=True)
                except KeyError:
                    reading.warn(f"A page of it is missing: {posixpath.basename(name)[:100]}")
                    continue
                yield from page_sections(page, reading)
        except TooLarge:
            raise too_large() from None
        except (KeyError, ElementTree.ParseError) as error:
            raise unreadable(f"It is damaged, or not what it says ({type(error).__name__})") from error


def _spine(archive: zipfile.ZipFile) -> Iterator[str]:
    container = ElementTree.fromstring(read_part(archive, "META-INF/container.xml"))  # noqa: S314 - see the import
    package = next(element.attrib["full-path"] for element in container.iter() if _local(element) == "rootfile")
    folder = posixpath.dirname(package)
    items: dict[str, str] = {}
    order: list[str] = []
    for element in ElementTree.fromstring(read_part(archive, package)).iter():  # noqa: S314 - see the import
        if _local(element) == "item" and element.get("media-type") in PAGES:
            items[element.get("id", "")] = posixpath.normpath(posixpath.join(folder, unquote(element.get("href", ""))))
        elif _local(element) == "itemref":
            order.append(element.get("idref", ""))
    return (items[id] for id in order if id in items)


def _local(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]
