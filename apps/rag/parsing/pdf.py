"""PDF, by PDFium (pypdfium2): a section a page, its filled form fields after its text; pictures and scans by OCR.

PDFium reads two to four times as many pages a second as kreuzberg, and one at a time (eval/rag/parsers.py). tesseract
is a command of its own, under the limits of this process.
"""

import ctypes
import io
import os
import struct
import subprocess
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import pypdfium2
from pypdfium2 import raw as pdfium

from apps.core.errors import InvalidValue
from apps.rag.parsing.formats import unreadable
from apps.rag.parsing.sections import HeadingPath, OcrOptions, Reading, Section

SECONDS = 60


def image_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    yield Section(recognised(file.read(), reading.ocr).strip(), page=1)


def recognised(image: bytes, options: OcrOptions) -> str:
    """The text of an image file in any format that tesseract reads. Raises InvalidValue."""
    if options.command is None:
        raise unreadable(f"It is an image, and images are not recognised here: {options.reason}")
    command = [str(options.command), "stdin", "stdout", "-l", options.languages]
    # one thread: its own threads wait for each other more than they gain on a page
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - the command is the operator's, the image goes in as data
            command, input=image, capture_output=True, timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise unreadable("It takes longer to recognise than is allowed") from None
    if done.returncode:
        raise unreadable("tesseract cannot recognise it: it is damaged, too large, or no image")
    return done.stdout.decode("utf-8", "replace").replace("\f", "")


HYPHENS = str.maketrans({"\x02": "-\n", "\ufffe": "-\n", "\0": None})
SCAN_DPI = 200
POINTS_AN_INCH = 72
MOST_PIXELS = 40_000_000
MOST_FIELDS_A_PAGE = 2_000
DEEPEST_OUTLINE = 6
SHOWN_PAGES = 20
PASSWORD = 4


def pdf_sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    try:
        document = pypdfium2.PdfDocument(file.read())
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == PASSWORD:
            raise unreadable("It is encrypted with a password") from None
        raise unreadable("It is damaged, or not what it says") from error
    reader = _Reader(document, reading)
    for number in range(len(document)):
        yield reader.page(number)
    reader.warn()


class _Reader:
    """Of one document. Pages that are scans are recognised, or reported at the end."""

    def __init__(self, document: Any, reading: Reading) -> None:
        self._document = document
        self._reading = reading
        self._form = _FormFields(document)
        self._outline = _outline(document)
        self._path = HeadingPath()
        self._unread: list[int] = []
        self._broken: list[int] = []

    def page(self, number: int) -> Section:
        for level, title in self._outline.get(number, ()):
            self._path.enter(level, title)
        text = ""
        try:
            page = self._document[number]
        except pypdfium2.PdfiumError:
            self._broken.append(number + 1)
        else:
            try:
                text = self._text(page, number)
            finally:
                page.close()
        return Section(text, page=number + 1, headings=self._path.path())

    def warn(self) -> None:
        if self._broken:
            self._reading.warn(f"Pages that could not be read: {_listed(self._broken)}")
        if self._unread:
            reason = self._reading.ocr.reason
            self._reading.warn(f"Pages without text, which are pictures: {_listed(self._unread)} ({reason})")

    def _text(self, page: Any, number: int) -> str:
        text = _text_of(page)
        fields = self._form.of(page)
        if not text.strip():
            text = self._recognised(page, number)
        return "\n".join(part for part in (text.strip("\n"), *fields) if part)

    def _recognised(self, page: Any, number: int) -> str:
        if not _has_drawing(page):
            return ""
        if self._reading.ocr.command is None:
            self._unread.append(number + 1)
            return ""
        try:
            return recognised(_png(page), self._reading.ocr).strip()
        except InvalidValue as error:
            self._reading.warn(f"Page {number + 1}: {error.message}")
            return ""


def _text_of(page: Any) -> str:
    textpage = page.get_textpage()
    try:
        text: str = textpage.get_text_bounded()
    finally:
        textpage.close()
    # fonts without a map to Unicode leave lone surrogates and NULs; a hyphen at a line's end is a mark of PDFium's
    return text.encode("utf-8", "ignore").decode().translate(HYPHENS).replace("\r\n", "\n").replace("\r", "\n")


def _has_drawing(page: Any) -> bool:
    """Whether there is anything on it: an empty page has nothing to recognise."""
    return int(pdfium.FPDFPage_CountObjects(page)) > 0


def _png(page: Any) -> bytes:
    """The page in grey, as large as a scan of it, within bounds."""
    width, height = page.get_size()
    scale = SCAN_DPI / POINTS_AN_INCH
    scale *= min(1.0, (MOST_PIXELS / max(width * height * scale * scale, 1)) ** 0.5)
    bitmap = page.render(scale=scale, grayscale=True)
    try:
        stride, pixels = bitmap.stride, bytes(bitmap.buffer)
        lines = b"".join(b"\0" + pixels[row * stride : row * stride + bitmap.width] for row in range(bitmap.height))
        head = struct.pack(">IIBBBBB", bitmap.width, bitmap.height, 8, 0, 0, 0, 0)
    finally:
        bitmap.close()
    out = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    out.seek(0, io.SEEK_END)
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b"")):
        out.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return out.getvalue()


def _outline(document: Any) -> dict[int, list[tuple[int, str]]]:
    """Bookmarks by the page that they point to: the headings of a PDF that has them."""
    found: dict[int, list[tuple[int, str]]] = {}
    for item in document.get_toc(max_depth=DEEPEST_OUTLINE):
        destination = item.get_dest()
        index = destination.get_index() if destination is not None else None
        if index is not None:
            found.setdefault(index, []).append((item.level + 1, item.get_title()))
    return found


class _FormFields:
    """What is filled into the fields of a form: their text is no part of a page's own."""

    def __init__(self, document: Any) -> None:
        self._form: Any = None
        if document.get_formtype() != pdfium.FORMTYPE_NONE:
            document.init_forms()
            self._form = document.formenv

    def of(self, page: Any) -> list[str]:
        if self._form is None:
            return []
        found: list[str] = []
        for index in range(min(pdfium.FPDFPage_GetAnnotCount(page), MOST_FIELDS_A_PAGE)):
            annotation = pdfium.FPDFPage_GetAnnot(page, index)
            try:
                if pdfium.FPDFAnnot_GetSubtype(annotation) == pdfium.FPDF_ANNOT_WIDGET:
                    found += self._field(annotation)
            finally:
                pdfium.FPDFPage_CloseAnnot(annotation)
        return list(dict.fromkeys(found))

    def _field(self, annotation: Any) -> list[str]:
        kind = pdfium.FPDFAnnot_GetFormFieldType(self._form, annotation)
        if kind in (pdfium.FPDF_FORMFIELD_PUSHBUTTON, pdfium.FPDF_FORMFIELD_SIGNATURE):
            return []
        value = self._read(pdfium.FPDFAnnot_GetFormFieldValue, annotation)
        if not value or (
            kind in (pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON) and value == "Off"
        ):
            return []
        name = self._read(pdfium.FPDFAnnot_GetFormFieldAlternateName, annotation)
        name = name or self._read(pdfium.FPDFAnnot_GetFormFieldName, annotation)
        return [f"{name}: {value}" if name else value]

    def _read(self, function: Any, annotation: Any) -> str:
        """PDFium tells how many bytes of UTF-16 it wants first."""
        size = function(self._form, annotation, None, 0)
        if size <= 2:
            return ""
        buffer = (ctypes.c_ushort * (size // 2))()
        function(self._form, annotation, buffer, size)
        return bytes(buffer)[: size - 2].decode("utf-16-le", "ignore")


def _listed(pages: list[int]) -> str:
    shown = ", ".join(map(str, pages[:SHOWN_PAGES]))
    return shown if len(pages) <= SHOWN_PAGES else f"{shown} and {len(pages) - SHOWN_PAGES} more"
