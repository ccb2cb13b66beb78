"""PDF, by pypdf: a section a page. Scanned pages have no text here: nothing is recognised."""

from collections.abc import Iterator
from typing import BinaryIO

from pypdf import PdfReader
from pypdf.errors import FileNotDecryptedError

from apps.rag.parsing.kinds import unreadable
from apps.rag.parsing.sections import Section


def sections(file: BinaryIO) -> Iterator[Section]:
    reader = PdfReader(file)
    if reader.is_encrypted and not reader.decrypt(""):
        raise unreadable("It is encrypted with a password")
    try:
        for number, page in enumerate(reader.pages, 1):
            # fonts without a map to Unicode leave lone surrogates and NULs
            text = page.extract_text().encode("utf-8", "ignore").decode().replace("\0", "")
            yield Section(text, page=number)
    except FileNotDecryptedError as error:
        raise unreadable("It is encrypted with a password") from error
