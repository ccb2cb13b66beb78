"""Documents and bombs, made by hand: no file of a format is kept in the repository."""

import io
import zipfile
import zlib
from collections.abc import Sequence

TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" ContentType='
    '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
RELATIONS = (
    '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Target="word/document.xml" Type='
    '"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/></Relationships>'
)
WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def pdf(pages: Sequence[str], *, filtered: bytes | None = None, extra: str = "") -> bytes:
    """A PDF with a line of text a page; ``filtered`` is a compressed stream that stands in for each page's."""
    objects: list[bytes] = []
    kids = " ".join(f"{3 + 2 * n} 0 R" for n in range(len(pages)))
    font = "<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    objects.append(b"<</Type/Catalog/Pages 2 0 R" + extra.encode() + b">>")
    objects.append(f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>".encode())
    for number, text in enumerate(pages):
        content = 4 + 2 * number
        page = f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources{font}/Contents {content} 0 R>>"
        lines = "".join(f"({line}) Tj T* " for line in text.split("\n"))
        stream = filtered or zlib.compress(f"BT /F1 10 Tf 14 TL 40 750 Td {lines}ET".encode("latin-1"))
        objects.append(page.encode())
        head = f"<</Length {len(stream)}/Filter/FlateDecode>>stream\n".encode()
        objects.append(head + stream + b"\nendstream")
    return _numbered(objects)


def _numbered(objects: Sequence[bytes]) -> bytes:
    out, offsets = io.BytesIO(), list[int]()
    out.write(b"%PDF-1.7\n")
    for number, body in enumerate(objects, 1):
        offsets.append(out.tell())
        out.write(f"{number} 0 obj\n".encode() + body + b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write(b"".join(f"{offset:010} 00000 n \n".encode() for offset in offsets))
    out.write(f"trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF".encode())
    return out.getvalue()


def raw_deflate(piece: bytes, times: int) -> bytes:
    """What unpacks to the piece so many times; a thousandth of that, and made at once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)) * times + b"\x03\x00"


def deflated(size: int, piece: bytes = b" " * 2**20) -> bytes:
    """A stream of a PDF that unpacks to so many bytes. Its checksum is wrong, which nobody gets to see."""
    return b"\x78\xda" + raw_deflate(piece, size // len(piece)) + bytes(4)


def docx(body: str, document: bytes | None = None) -> bytes:
    """``body`` is WordprocessingML; ``document`` the whole part instead."""
    part = document or f'<?xml version="1.0"?><w:document {WORD}><w:body>{body}</w:body></w:document>'.encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        archive.writestr("_rels/.rels", RELATIONS)
        archive.writestr("word/document.xml", part)
    return out.getvalue()


def docx_of_blanks(size: int, says: int) -> bytes:
    """A DOCX whose text unpacks to ``size`` blanks, and which says that it is so large."""
    out = io.BytesIO()
    head = f"<w:document {WORD}><w:body><w:p><w:r><w:t>".encode()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        archive.writestr("_rels/.rels", RELATIONS)
        archive.writestr(
            "word/document.xml", raw_deflate(head.ljust(2**20), 1)[:-2] + raw_deflate(b" " * 2**20, size // 2**20)
        )
        # the directory at the end is what a reader goes by
        archive.filelist[-1].compress_type, archive.filelist[-1].file_size = zipfile.ZIP_DEFLATED, says
    return out.getvalue()


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"
