"""Office documents as people have them, made by python-docx, openpyxl and by hand."""

import io
import zipfile
from collections.abc import Callable, Mapping

import docx
import openpyxl
import pptx
from docx.oxml import parse_xml

NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" xmlns:v="urn:schemas-microsoft-com:vml" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
    'xmlns:s="http://schemas.microsoft.com/office/word/2010/wordprocessingShape"'
)
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"
ODF = "urn:oasis:names:tc:opendocument:xmlns:"
OPEN_DOCUMENT = " ".join(
    f'xmlns:{name}="{ODF}{uri}:1.0"'
    for name, uri in {"office": "office", "text": "text", "table": "table", "draw": "drawing", "style": "style"}.items()
)


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def p(inner: str) -> str:
    return f"<w:p>{inner}</w:p>"


def word(*blocks: str, header: str = "", footer: str = "") -> bytes:
    """A document by python-docx, whose body has these blocks of WordprocessingML."""
    document = docx.Document()
    body = document.element.body
    for block in blocks:
        head, _, rest = block.partition(">")
        closed = head.endswith("/")
        body.insert(len(body) - 1, parse_xml(f"{head.rstrip('/')} {NAMESPACES}{'/' if closed else ''}>{rest}"))
    document.sections[0].header.paragraphs[0].text = header
    document.sections[0].footer.paragraphs[0].text = footer
    return _saved(document.save)


def rewritten(package: bytes, change: Callable[[str, bytes], tuple[str, bytes]], **added: str) -> bytes:
    """The same archive with other names and contents of its parts, and with more of them."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as before, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for info in before.infolist():
            made.writestr(*change(info.filename, before.read(info.filename)))
        for name, content in added.items():
            made.writestr(f"word/{name}.xml", content)
    return out.getvalue()


def with_notes(package: bytes, **notes: str) -> bytes:
    """``footnotes``, ``endnotes``, ``comments``: the content of each part."""
    links = "".join(f'<Relationship Id="n{kind}" Type="{OFFICE}{kind}" Target="{kind}.xml"/>' for kind in notes)

    def change(name: str, data: bytes) -> tuple[str, bytes]:
        if name == "word/_rels/document.xml.rels":
            data = data.replace(b"</Relationships>", f"{links}</Relationships>".encode())
        return name, data

    parts = {kind: f"<w:{kind} {NAMESPACES}>{content}</w:{kind}>" for kind, content in notes.items()}
    return rewritten(package, change, **parts)


def moved_main_part(package: bytes) -> bytes:
    """As Word on the web names it."""
    names = {"word/document.xml": "word/document2.xml", "word/_rels/document.xml.rels": "word/_rels/document2.xml.rels"}
    return rewritten(
        package, lambda name, data: (names.get(name, name), data.replace(b"word/document.xml", b"word/document2.xml"))
    )


def of_type(package: bytes, content_type: str) -> bytes:
    main = b"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    return rewritten(package, lambda name, data: (name, data.replace(main, content_type.encode())))


def strict(package: bytes) -> bytes:
    """In the namespaces of ISO 29500 Strict."""
    purl = b"http://purl.oclc.org/ooxml/"
    changes = {
        b"http://schemas.openxmlformats.org/wordprocessingml/2006/main": purl + b"wordprocessingml/main",
        OFFICE.encode(): purl + b"officeDocument/relationships/",
    }

    def change(name: str, data: bytes) -> tuple[str, bytes]:
        for before, after in changes.items():
            data = data.replace(before, after)
        return name, data

    return rewritten(package, change)


def slides() -> bytes:
    """Three, the second without a title; the first was moved to the end."""
    presentation = pptx.Presentation()
    for number, title in enumerate(("Ends with AT&T <x>", "", "Begins")):
        slide = presentation.slides.add_slide(presentation.slide_layouts[5 if title else 6])
        if title:
            slide.shapes.title.text = title
        group = slide.shapes.add_group_shape()
        group.shapes.add_textbox(0, 0, 9, 9).text_frame.text = f"grouped badger {number}"
        table = slide.shapes.add_table(1, 3, 0, 0, 9, 9).table
        for column, text in enumerate(("Basic", "10", "10")):
            table.cell(0, column).text = text
        slide.notes_slide.notes_text_frame.text = f"spoken walrus {number}"
    order = presentation.slides._sldIdLst
    order.append(next(iter(order)))
    return _saved(presentation.save)


def workbook(sheets: Mapping[str, list[list[object]]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    return _saved(book.save)


def open_document(kind: str, body: str, styles: str = "") -> bytes:
    """``kind`` is text or spreadsheet."""
    out = io.BytesIO()
    media = f"application/vnd.oasis.opendocument.{kind}"
    entry = f'<m:file-entry m:full-path="/" m:media-type="{media}"/>'
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("mimetype", media)
        made.writestr("META-INF/manifest.xml", f'<m:manifest xmlns:m="{ODF}manifest:1.0">{entry}</m:manifest>')
        content = f"<office:body><office:{kind}>{body}</office:{kind}></office:body>"
        made.writestr("content.xml", f"<office:document-content {OPEN_DOCUMENT}>{content}</office:document-content>")
        if styles:
            made.writestr("styles.xml", f"<office:document-styles {OPEN_DOCUMENT}>{styles}</office:document-styles>")
    return out.getvalue()


def epub(pages: Mapping[str, str], order: list[str]) -> bytes:
    out = io.BytesIO()
    items = "".join(f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml"/>' for name in pages)
    spine = "".join(f'<itemref idref="{name}"/>' for name in order)
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>'
    )
    root = '<container><rootfiles><rootfile full-path="text/book.opf"/></rootfiles></container>'
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("mimetype", "application/epub+zip")
        made.writestr("META-INF/container.xml", root)
        made.writestr("text/book.opf", package)
        for name, body in pages.items():
            made.writestr(
                f"text/{name}.xhtml", f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>'
            )
    return out.getvalue()


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    out = io.BytesIO()
    save(out)
    return out.getvalue()
