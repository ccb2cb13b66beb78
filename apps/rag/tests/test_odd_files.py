"""Files that are damaged, mislabelled, locked, or hold what is not read: a clear refusal, or a warning and the rest."""

import io
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import openpyxl
import pptx
import pytest
from openpyxl.comments import Comment
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE

from apps.core.errors import InvalidValue
from apps.rag.records import Limits
from apps.tests.support import made_files as made
from apps.tests.support import office_files as office
from apps.tests.support.office_files import p, run
from apps.tests.support.parsing import Parser, ParserHere, read, text_of

pytestmark = pytest.mark.local

WORD = office.word(p(run("walrus")))
ODT = office.open_document("text", "<text:p>walrus</text:p>")
EPUB = office.epub({"a": "<p>walrus</p>"}, ["a"])
OLE = b"\xd0\xcf\x11\xe0" + bytes(600)
LARGE = 10 * 2**30


def without(package: bytes, part: str) -> bytes:
    return office.rewritten(package, lambda name, data: (name + ".gone" if name == part else name, data))


def broken(package: bytes, part: str) -> bytes:
    return office.rewritten(package, lambda name, data: (name, data[: len(data) // 2] if name == part else data))


def with_part(package: bytes, *parts: str) -> bytes:
    out = io.BytesIO(package)
    with zipfile.ZipFile(out, "a") as archive:
        for part in parts:
            archive.writestr(part, "<x/>")
    return out.getvalue()


def that_says(package: bytes, size: int) -> bytes:
    """The same archive, whose directory says that a part unpacks to so many bytes."""
    out = io.BytesIO(package)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("large", b"x")
        archive.filelist[-1].file_size = size
    return out.getvalue()


def encrypted(text: str) -> bytes:
    """A PDF that asks for a password: its owner's and its user's hashes are those of none."""
    lock = "<</Filter/Standard/V 1/R 2/P -4/O(" + "o" * 32 + ")/U(" + "u" * 32 + ")>>"
    return made.pdf([text]).replace(b"/Root 1 0 R>>", f"/Root 1 0 R/ID[(a)(a)]/Encrypt {lock}>>".encode())


REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a PDF by the name of a text": ("a.txt", lambda: made.pdf(["x"]), "Its name ends with .txt, but it is a PDF"),
    "a picture by the name of a DOCX": ("a.docx", lambda: b"BM" + bytes(60), "Its name ends with .docx, but it is an"),
    "gzip": ("a", lambda: b"\x1f\x8b" + bytes(50), "It is a gzip archive"),
    "an old Office document": ("a.doc", lambda: OLE, "It is an old Office document"),
    "bytes without a name": ("a", lambda: b"ab\0cd" * 50, "It is neither text nor a format that is known"),
    "bytes by the name of a text": ("a.txt", lambda: b"ab\0\0\0cd" * 50, "It is neither text nor a format that is"),
    "half a ZIP": ("a.docx", lambda: WORD[: len(WORD) // 2], "It is a damaged ZIP archive"),
    "a ZIP without relationships": ("a.zip", lambda: without(WORD, "_rels/.rels"), "and not a document that is known"),
    "a ZIP without a main part": (
        "a.docx",
        lambda: office.rewritten(WORD, lambda name, data: (name, data.replace(b'/officeDocument"', b'/other"'))),
        "and not a document that is known",
    ),
    "a DOCX without its text": ("a.docx", lambda: without(WORD, "word/document.xml"), "It is damaged"),
    "a DOCX with half of its text": ("a.docx", lambda: broken(WORD, "word/document.xml"), "It is damaged"),
    "a DOCX that says that it is huge": ("a.docx", lambda: that_says(WORD, LARGE), "It unpacks to more than is"),
    "an ODT without its text": ("a.odt", lambda: without(ODT, "content.xml"), "It is damaged"),
    "an ODT with half of its text": ("a.odt", lambda: broken(ODT, "content.xml"), "It is damaged"),
    "a workbook with half of itself": (
        "a.xlsx",
        lambda: broken(office.workbook({"A": [["walrus"]]}), "xl/workbook.xml"),
        "The file cannot be read",
    ),
    "slides that say that they are huge": ("a.pptx", lambda: that_says(office.slides(), LARGE), "It unpacks to more"),
    "slides with half of themselves": (
        "a.pptx",
        lambda: broken(office.slides(), "ppt/presentation.xml"),
        "It is damaged",
    ),
    "a book that says that it is huge": ("a.epub", lambda: that_says(EPUB, LARGE), "It unpacks to more than is"),
    "a book that is locked": (
        "a.epub",
        lambda: with_part(EPUB, "META-INF/encryption.xml", "META-INF/rights.xml"),
        "It is encrypted",
    ),
    "a book without a table of its parts": ("a.epub", lambda: without(EPUB, "text/book.opf"), "It is damaged"),
    "a PDF that is locked": ("a.pdf", lambda: encrypted("x"), "It is encrypted with a password"),
    "a PDF of nothing": ("a.pdf", lambda: b"%PDF-1.7\n%%EOF", "It is damaged"),
    "a message without a header": ("a.eml", lambda: b"\r\nwalrus\r\n", "It is no e-mail: it has no header"),
    "an Outlook message that is none": (
        "a.msg",
        lambda: OLE + "__substg1.0_".encode("utf-16-le"),
        "The file cannot be read",
    ),
    "a page of more elements than there is room for": (
        "a.html",
        lambda: b"<div>" * 5000,
        "Its elements are nested more than",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_read_is_refused_with_its_reason(parser: Parser, tmp_path: Path, what: str) -> None:
    name, content, reason = REFUSED[what]
    with pytest.raises(InvalidValue) as refused:
        await read(parser, tmp_path, name, content())
    assert refused.value.message.startswith("The file cannot be read. ") and reason in refused.value.message
    assert refused.value.field == "file"


async def test_more_text_than_is_allowed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="It holds more than 100 characters of text"):
        await read(ParserHere(Limits(text_chars=100)), tmp_path, "a.txt", b"walrus " * 50)


async def test_what_is_missing_in_a_book_is_told_and_the_rest_is_read(parser: Parser, tmp_path: Path) -> None:
    book = office.epub({"a": "<p>walrus</p>", "b": "<p>gone</p>"}, ["a", "b"])
    chunks, done = await read(parser, tmp_path, "a.epub", without(book, "text/b.xhtml"))
    assert [chunk["text"] for chunk in chunks] == ["walrus"]
    assert done["warnings"] == ["A page of it is missing: b.xhtml"]


async def test_names_of_parts_are_found_whatever_their_case_and_slashes(parser: Parser, tmp_path: Path) -> None:
    odd = office.rewritten(WORD, lambda name, data: (name.replace("word/document.xml", "\\Word\\Document.xml"), data))
    assert await text_of(parser, tmp_path, "a.docx", odd) == "walrus"


async def test_a_workbook_says_what_of_it_was_not_read(parser: Parser, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet["A1"] = "walrus"
    sheet["A1"].comment = Comment("Is it?", "Zoe")
    book.save(tmp_path / "made.xlsx")
    _, done = await read(parser, tmp_path, "a.xlsx", (tmp_path / "made.xlsx").read_bytes())
    assert done["warnings"] == ["parts with comments not read: 1"]


async def test_charts_of_slides_are_read_and_pictures_are_told(parser: Parser, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "made.png")
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[6])
    chart = CategoryChartData()
    chart.categories = ["Herring"]
    chart.add_series("Tons", (7,))
    slide.shapes.add_chart(XL_CHART_TYPE.PIE, 0, 0, 99, 99, chart)
    slide.shapes.add_picture(str(tmp_path / "made.png"), 0, 0)
    box = slide.shapes.add_textbox(0, 0, 9, 9).text_frame
    box.text = "first line\vsecond line"
    presentation.save(str(tmp_path / "made.pptx"))
    chunks, done = await read(parser, tmp_path, "a.pptx", (tmp_path / "made.pptx").read_bytes())
    text = "\n".join(chunk["text"] for chunk in chunks)
    assert "first line\nsecond line" in text and "Herring" in text and "Tons" in text
    assert done["warnings"] == ["Slide 1, pictures not read: 1"]


async def test_bookmarks_of_a_pdf_are_its_headings(parser: Parser, tmp_path: Path) -> None:
    pages = made.pdf(["one", "two"], extra="/Outlines<</First 9 0 R/Last 9 0 R/Count 1>>")
    entry = b"9 0 obj\n<</Title(Fees)/Dest[5 0 R/Fit]>>\nendobj\n"
    chunks, _ = await read(parser, tmp_path, "a.pdf", pages.replace(b"xref\n", entry + b"xref\n", 1))
    assert [(chunk["page"], chunk["headings"], chunk["text"]) for chunk in chunks] == [
        (1, [], "one"),
        (2, ["Fees"], "two"),
    ]


async def test_a_box_of_a_form_that_is_not_ticked_says_nothing(parser: Parser, tmp_path: Path) -> None:
    page = made.pdf(["Choose"])
    fields = "".join(
        f"<</Type/Annot/Subtype/Widget/FT/{kind}/T({name}){value}/Rect[0 0 9 9]/P 3 0 R>>"
        for kind, name, value in (
            ("Btn", "off", "/V/Off/AS/Off"),
            ("Btn/Ff 65536", "push", ""),
            ("Tx", "empty", ""),
            ("Tx", "city", "/V(Rome)"),
        )
    )
    page = page.replace(b"/Type/Catalog", f"/Type/Catalog/AcroForm<</Fields[{fields}]>>".encode())
    page = page.replace(
        b"/Type/Page/", f"/Type/Page/Annots[{fields}<</Type/Annot/Subtype/Link/Rect[0 0 9 9]>>]/".encode()
    )
    assert await text_of(parser, tmp_path, "a.pdf", page) == "Choose\ncity: Rome"


def message(text: str = "walrus") -> EmailMessage:
    made = EmailMessage()
    made["Subject"] = text
    made.set_content(text)
    return made


async def test_messages_in_messages_are_read_to_a_depth_that_is_told(parser: Parser, tmp_path: Path) -> None:
    inner = message("depth 0")
    for depth in range(1, 12):
        outer = message(f"depth {depth}")
        outer.add_attachment(inner)
        inner = outer
    text = await text_of(parser, tmp_path, "a.eml", inner.as_bytes())
    assert "Subject: depth 11" in text and "Subject: depth 9" in text and "depth 0" not in text
    _, done = await read(parser, tmp_path, "a.eml", inner.as_bytes())
    assert len(done["warnings"]) == 1 and "deep were not read" in done["warnings"][0]


@pytest.mark.long
async def test_of_endless_attachments_a_bounded_number_is_read(parser: Parser, tmp_path: Path) -> None:
    many = message()
    for number in range(1002):
        many.add_attachment(f"file {number}", filename=f"{number}.txt")
    chunks, done = await read(parser, tmp_path, "a.eml", many.as_bytes())
    assert any("file 999" in chunk["text"] for chunk in chunks)
    assert not any("file 1000" in chunk["text"] for chunk in chunks)
    assert done["warnings"] == ["Of its attachments 1000 were read"]


async def test_what_an_email_shows_or_leaves_empty_is_no_attachment(parser: Parser, tmp_path: Path) -> None:
    mail = message()
    mail.add_attachment(b"\x89PNG\r\n", maintype="image", subtype="png", filename="logo.png", disposition="inline")
    mail.add_attachment(b"", maintype="text", subtype="plain", filename="empty.txt")
    chunks, done = await read(parser, tmp_path, "a.eml", mail.as_bytes())
    assert [chunk["text"] for chunk in chunks] == ["Subject: walrus", "walrus"]
    assert done["warnings"] == ["A picture in the text was not read: logo.png"]


async def test_an_unknown_charset_of_an_email_is_guessed(parser: Parser, tmp_path: Path) -> None:
    mail = b"Subject: a\r\nContent-Type: text/plain; charset=x-none\r\n\r\nDie Geb\xfchr betr\xe4gt f\xfcnf Euro.\r\n"
    assert (await text_of(parser, tmp_path, "a.eml", mail)).endswith("Die Gebühr beträgt fünf Euro.")


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ('name;age\nAnn "the owl" Lee;41\n', ['name: Ann "the owl" Lee; age: 41']),
        ('name;age\n"Ann;41\nBob;7\n', ['name: "Ann; age: 41', "name: Bob; age: 7"]),
    ],
)
async def test_quotes_that_do_not_end_cost_no_row_of_a_table(
    parser: Parser, tmp_path: Path, table: str, rows: list[str]
) -> None:
    chunks, done = await read(parser, tmp_path, "a.csv", table.encode())
    text = "\n".join(chunk["text"] for chunk in chunks)
    assert all(row in text for row in rows), text
    assert len(done["warnings"]) == (1 if '"Ann;' in table else 0)
