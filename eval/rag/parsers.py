"""The trial of libraries that read documents: `python -m eval.rag.parsers`; which words of hard files each one finds.

Libraries that are not installed are left out (markitdown and docling-slim are in no requirements file: try them in an
environment of their own). PDF speed is that of a hundred pages.
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from apps.tests.support import made_files as made
from apps.tests.support import office_files as office
from apps.tests.support.office_files import p, run

PAGES = 100
FRAME = f"<v:textbox><w:txbxContent>{p(run('pelican'))}</w:txbxContent></v:textbox>"
BOX = f"<w:r><w:pict><v:shape>{FRAME}</v:shape></w:pict></w:r>"
PLAIN = office.word(p(run("twenty five days")))
FILES: dict[str, tuple[bytes, list[str], list[str]]] = {
    "tracked.docx": (
        office.word(p(f"<w:ins>{run('ninety')}</w:ins><w:moveFrom>{run('thirty')}</w:moveFrom>")),
        ["ninety"],
        ["thirty"],
    ),
    "boxes.docx": (office.word(p(BOX), header="toucan", footer="hoopoe"), ["pelican", "toucan", "hoopoe"], []),
    "notes.docx": (
        office.with_notes(
            office.word(p(run("Fee") + '<w:r><w:footnoteReference w:id="2"/><w:commentReference w:id="0"/></w:r>')),
            footnotes=f'<w:footnote w:id="2">{p(run("marmot"))}</w:footnote>',
            comments=f'<w:comment w:id="0">{p(run("ibis"))}</w:comment>',
        ),
        ["marmot", "ibis"],
        [],
    ),
    "signs.docx": (office.word(p(run("R&amp;D &lt;x&gt; a_b"))), ["R&D <x> a_b"], []),
    "web.docx": (office.moved_main_part(PLAIN), ["twenty five days"], []),
    "slides.pptx": (office.slides(), ["AT&T <x>", "badger", "walrus"], []),
    "prices.xlsx": (office.workbook({"Prices": [["Basic", "R&D"], ["Pro", 5]]}), ["Prices", "R&D", "Pro"], []),
    "page.html": (
        b"<dl><dt>Term<dd>walrus</dl><details><summary>ibis</summary>lemur</details>gecko",
        ["walrus", "ibis", "lemur", "gecko"],
        [],
    ),
}
Reader = Callable[[str, bytes], str]


def ours() -> Reader:
    from apps.rag.parsing.formats import sections_of
    from apps.rag.parsing.sections import Reading

    return lambda name, data: "\n".join(section.text for section in sections_of(io.BytesIO(data), name, Reading())[1])


def kreuzberg() -> Reader:
    import kreuzberg as library

    types = {
        ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        ".html": "text/html",
        ".pdf": "application/pdf",
    }
    config = library.ExtractionConfig(
        use_cache=False, output_format="markdown", pages=library.PageConfig(extract_pages=True)
    )
    return lambda name, data: str(library.extract_bytes_sync(data, types[Path(name).suffix], config=config).content)


def markitdown() -> Reader:
    from markitdown import MarkItDown

    reader = MarkItDown()
    return lambda name, data: str(
        reader.convert_stream(io.BytesIO(data), file_extension=Path(name).suffix).text_content
    )


def docling() -> Reader:
    from docling.document_converter import DocumentConverter

    converter = DocumentConverter()

    def read(name: str, data: bytes) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            return str(converter.convert(path).document.export_to_markdown())

    return read


READERS: dict[str, Callable[[], Reader]] = {"kreuzberg": kreuzberg, "markitdown": markitdown, "docling": docling}


def rows() -> Iterator[str]:
    readers = {"ours": ours()}
    for name, make in READERS.items():
        if find_spec(name):
            try:
                readers[name] = make()
            except ImportError as error:
                yield f"{name} does not start: {error}\n"
    yield "| file | " + " | ".join(readers) + " |\n|---|" + "---|" * len(readers)
    for name, (data, has, lacks) in FILES.items():
        yield f"| {name} | " + " | ".join(judged(read, name, data, has, lacks) for read in readers.values()) + " |"
    pages = made.pdf([f"Page {number}\n" + "words of a line\n" * 30 for number in range(PAGES)])
    yield "| PDF, pages/s | " + " | ".join(speed(read, pages) for read in readers.values()) + " |"


def judged(read: Reader, name: str, data: bytes, has: list[str], lacks: list[str]) -> str:
    try:
        text = read(name, data)
    except Exception as error:
        return type(error).__name__
    wrong = [f"no {word}" for word in has if word not in text] + [f"has {word}" for word in lacks if word in text]
    return ", ".join(wrong) or "right"


def speed(read: Reader, data: bytes) -> str:
    started = time.perf_counter()
    try:
        read("a.pdf", data)
    except Exception as error:
        return type(error).__name__
    return f"{PAGES / (time.perf_counter() - started):.0f}"


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)
