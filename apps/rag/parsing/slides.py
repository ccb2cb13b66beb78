"""PPTX, by python-pptx: a page a slide, its title as heading, its texts in their order, tables, and the notes."""

import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import pptx
from lxml import etree
from pptx.exc import PackageNotFoundError

from apps.rag.parsing.formats import too_large, unreadable
from apps.rag.parsing.packages import TooLarge, check_sizes
from apps.rag.parsing.sections import Reading, Section, SectionBuilder

DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
COMPATIBILITY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
SLIDE = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
TITLES = ("title", "ctrTitle")
# on notes pages and slides: numbers, dates and running texts that say nothing
RUNNING = ("sldNum", "dt", "sldImg")
TEXTS = {f"{DRAWING}t", f"{MATH}t"}


def sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    try:
        with zipfile.ZipFile(file) as archive:
            check_sizes(archive)
    except TooLarge:
        raise too_large() from None
    file.seek(0)
    try:
        presentation = pptx.Presentation(file)
        for number, slide in enumerate(presentation.slides, 1):
            builder = SectionBuilder(number)
            _shapes(slide.element, builder)
            _related(slide.part, builder)
            if slide.has_notes_slide:
                builder.block("\n".join(_paragraphs(slide.notes_slide.element)))
            _warn(slide.element, number, reading)
            yield from builder.finish()
    except (etree.XMLSyntaxError, PackageNotFoundError, KeyError) as error:
        raise unreadable(f"It is damaged, or not what it says ({type(error).__name__})") from error


def _shapes(slide: Any, builder: SectionBuilder) -> None:
    shapes = [shape for shape in slide.iter(f"{SLIDE}sp", f"{DRAWING}tbl") if not _within(shape, "Fallback")]
    for shape in sorted(shapes, key=lambda shape: _placeholder(shape) not in TITLES):
        if _placeholder(shape) in RUNNING:
            continue
        if shape.tag == f"{DRAWING}tbl":
            builder.table([[_text(cell) for cell in row.iter(f"{DRAWING}tc")] for row in shape.iter(f"{DRAWING}tr")])
        elif _placeholder(shape) in TITLES:
            builder.heading(1, _text(shape))
        else:
            builder.block("\n".join(_paragraphs(shape)))


def _related(part: Any, builder: SectionBuilder) -> None:
    """Texts of diagrams and charts, and comments, which are parts of their own."""
    for relation in part.rels.values():
        kind = relation.reltype.rpartition("/")[2]
        if relation.is_external or kind not in ("diagramData", "chart", "comments"):
            continue
        root = etree.fromstring(relation.target_part.blob, etree.XMLParser(resolve_entities=False, no_network=True))
        texts = [element.text or "" for element in root.iter() if _local(element) in ("t", "v", "text")]
        builder.block("\n".join(text for text in texts if text.strip()))


def _warn(slide: Any, number: int, reading: Reading) -> None:
    pictures = sum(1 for _ in slide.iter(f"{SLIDE}pic"))
    if pictures:
        reading.warn(f"Slide {number}, pictures not read: {pictures}")


def _placeholder(shape: Any) -> str:
    if shape.tag != f"{SLIDE}sp":
        return ""
    found = shape.find(f"{SLIDE}nvSpPr/{SLIDE}nvPr/{SLIDE}ph")
    return "" if found is None else str(found.get("type", "obj"))


def _within(element: Any, name: str) -> bool:
    return any(above.tag == f"{COMPATIBILITY}{name}" for above in element.iterancestors())


def _paragraphs(shape: Any) -> Iterator[str]:
    for paragraph in shape.iter(f"{DRAWING}p"):
        frame = next((above for above in paragraph.iterancestors(f"{SLIDE}sp")), None)
        if frame is not None and frame is not shape and _placeholder(frame) in RUNNING:
            continue
        if text := _text(paragraph).strip():
            yield text


def _text(element: Any) -> str:
    parts: list[str] = []
    for child in element.iter():
        if child.tag in TEXTS:
            parts.append(child.text or "")
        elif child.tag == f"{DRAWING}br" or (child.tag == f"{DRAWING}p" and parts):
            parts.append("\n")
    return "".join(parts)


def _local(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]
