"""Bombs and broken files: each a clear error of its own, and the library goes on."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.core.errors import InvalidValue
from apps.rag.library import Library
from apps.rag.records import Limits, Upload
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import finished, ingested, texts
from apps.tests.support import made_files as made

pytestmark = pytest.mark.local

GIB = 2**30
DEEP_XML = f"<w:document {made.WORD}><w:body>" + "<w:p>" * 200_000


def zipped(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def laughs() -> bytes:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    head = f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY l0 "ha">{entities}]>'
    body = f"<w:document {made.WORD}><w:body>{made.paragraph('&l11;')}</w:body></w:document>"
    return made.docx("", (head + body).encode())


# name, content, what the message must say
BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a zip of zeros": ("a.zip", lambda: zipped("zeros", bytes(10**8)), "ZIP archive, and not a document"),
    "10 GB of blanks in a DOCX": ("a.docx", lambda: made.docx_of_blanks(10 * GIB, says=10 * GIB), "unpacks to more"),
    "blanks in a DOCX that lies of its size": (
        "a.docx",
        lambda: made.docx_of_blanks(10 * GIB, says=150 * 2**20),
        "",
    ),
    "10 GB of blanks in a PDF": ("a.pdf", lambda: made.pdf(["x"], filtered=made.deflated(10 * GIB)), ""),
    "a PDF whose pages are their own parent": (
        "a.pdf",
        lambda: made.pdf(["x"]).replace(b"/Kids[3 0 R]", b"/Kids[2 0 R]"),
        "",
    ),
    "a PDF of endless drawing": (
        "a.pdf",
        lambda: made.pdf(["x"], filtered=made.deflated(60 * 2**20, b"BT (x) Tj ET q Q " * 2**16)),
        "",
    ),
    "a truncated PDF": ("a.pdf", lambda: made.pdf(["hello"] * 50)[:900], "damaged"),
    "deep HTML": ("a.html", lambda: b"<html>" + b"<div>" * 500_000 + b"x", "nested"),
    "deep XML in a DOCX": ("a.docx", lambda: made.docx("", DEEP_XML.encode()), "damaged"),
    "a billion laughs in a DOCX": ("a.docx", laughs, ""),
    "a wrong extension": ("a.pdf", lambda: made.docx(made.paragraph("hi")), "ends with .pdf, but it is a DOCX"),
    "a program called text": ("a.txt", lambda: b"\x7fELF" + bytes(1000), "a program"),
    "bytes that are not text": ("a.txt", lambda: bytes(range(1, 256)) * 4, "neither text"),
    "binary without a name for it": ("a.dat", lambda: bytes(range(256)) * 10, "neither text"),
    "a scanned PDF": ("a.pdf", lambda: made.pdf([""]), "no text in it"),
    "white space": ("a.txt", lambda: b" \n" * 10_000, "no text in it"),
}


@pytest.mark.parametrize("what", BOMBS)
@pytest.mark.long
async def test_each_is_a_clear_error_and_the_next_file_is_taken(tmp_path: Path, what: str) -> None:
    name, make, says = BOMBS[what]
    library = Library(tmp_path, HashingEmbedder(), limits=Limits(parse_seconds=4, file_bytes=64 * 2**20))
    await library.start()
    job = await ingested(library, {name: make()})
    [file] = job.files
    assert (file.status, file.passages) == ("failed", 0), what
    assert file.error is not None
    assert (file.error["code"], file.error["status"], file.error["field"]) == ("INVALID_VALUE", 422, "file")
    assert file.error["message"].startswith("The file cannot be read. ")
    assert says in file.error["message"]
    assert str(tmp_path) not in str(file.error) and "Traceback" not in str(file.error)
    assert await library.collections("ann") == [], "a file that failed leaves no collection behind"
    job = await ingested(library, {"fine.txt": "all is well"})
    assert job.status == "done" and await texts(library, "well") == ["all is well"]
    await library.aclose()


async def test_a_path_in_the_name_is_refused_before_anything_is_written(library: Library) -> None:
    for name in ("../../a.txt", "/etc/passwd", "..\\a.txt", "c:\\a.txt"):
        with pytest.raises(InvalidValue, match="label, not a path"):
            await library.submit("ann", "docs", [Upload(name, b"x")])


async def test_more_text_than_is_allowed_is_refused(tmp_path: Path) -> None:
    library = Library(tmp_path, HashingEmbedder(), limits=Limits(text_chars=1000))
    await library.start()
    job = await library.submit("ann", "docs", [Upload("a.txt", b"word " * 300), Upload("b.txt", b"word " * 100)])
    job = await finished(library, "ann", job)
    assert [file.status for file in job.files] == ["failed", "done"]
    assert job.files[0].error is not None and "1000 characters" in job.files[0].error["message"]
    await library.aclose()
