"""PDF and pictures: filled forms, hyphens, scanned pages, and pictures that unpack to huge ones."""

import shutil
import zlib
from pathlib import Path

import pytest

from apps.core.errors import InvalidValue
from apps.rag.records import Limits
from apps.tests.support import made_files as made
from apps.tests.support.parsing import Parser, ParserHere, read, text_of

pytestmark = pytest.mark.local


def form(value: str) -> bytes:
    """A PDF with a field that is filled in, as a form program writes it."""
    page = made.pdf(["Name of the applicant"])
    field = f"<</Type/Annot/Subtype/Widget/FT/Tx/T(surname)/V({value})/Rect[0 0 100 20]/P 3 0 R>>"
    page = page.replace(b"/Type/Catalog", f"/Type/Catalog/AcroForm<</Fields[{field}]>>".encode())
    return page.replace(b"/Type/Page/", f"/Type/Page/Annots[{field}]/".encode())


async def test_what_is_filled_into_a_form_is_read(parser: Parser, tmp_path: Path) -> None:
    assert await text_of(parser, tmp_path, "a.pdf", form("Zanzibar")) == "Name of the applicant\nsurname: Zanzibar"


async def test_hyphens_at_the_ends_of_lines_stay_what_they_are(parser: Parser, tmp_path: Path) -> None:
    assert await text_of(parser, tmp_path, "a.pdf", made.pdf(["The docu-\nmentation"])) == "The docu-\nmentation"


def scan(text: str, tmp_path: Path) -> bytes:
    """A PNG of drawn text, by matplotlib, as requirements-dev.txt has it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2), dpi=150)
    figure.text(0.05, 0.4, text, fontsize=28)
    figure.savefig(tmp_path / "scan.png")
    return (tmp_path / "scan.png").read_bytes()


def scanned_pdf(tmp_path: Path, text: str) -> bytes:
    from PIL import Image

    (tmp_path / "for.png").write_bytes(scan(text, tmp_path))
    with Image.open(tmp_path / "for.png") as image:
        image.convert("RGB").save(tmp_path / "scan.pdf")
    return (tmp_path / "scan.pdf").read_bytes()


needs_tesseract = pytest.mark.skipif(shutil.which("tesseract") is None, reason="needs tesseract")


@needs_tesseract
async def test_pictures_and_scanned_pages_are_recognised_where_tesseract_is(parser: Parser, tmp_path: Path) -> None:
    assert "pelican" in await text_of(parser, tmp_path, "a.png", scan("A white pelican", tmp_path))
    chunks, done = await read(parser, tmp_path, "a.pdf", scanned_pdf(tmp_path, "A grey walrus"))
    assert [chunk["page"] for chunk in chunks] == [1] and "walrus" in chunks[0]["text"]
    assert done["warnings"] == []


async def test_without_recognition_the_error_says_so_and_a_page_is_told(tmp_path: Path) -> None:
    parser = ParserHere(Limits(ocr=False))
    with pytest.raises(InvalidValue, match="RAG_OCR is off"):
        await text_of(parser, tmp_path, "a.png", scan("A white pelican", tmp_path))
    with pytest.raises(InvalidValue, match=r"pictures: 1 \(RAG_OCR is off\)"):
        await text_of(parser, tmp_path, "a.pdf", scanned_pdf(tmp_path, "A grey walrus"))


@pytest.mark.long
async def test_a_picture_that_unpacks_to_a_huge_one_is_refused(parser: Parser, tmp_path: Path) -> None:
    def part(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    side = 60_000
    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", made.deflated(2**30)) + part(b"IEND", b"")
    with pytest.raises(InvalidValue, match="image"):
        await text_of(parser, tmp_path, "a.png", png)
