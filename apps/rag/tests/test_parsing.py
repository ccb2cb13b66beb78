"""Each kind of file, from bytes to passages, in the real parsing process."""

import asyncio
import codecs
import json
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio

from apps.rag.parsing.sandbox import Sandbox
from apps.rag.records import Limits
from apps.tests.support import made_files as made
from apps.tests.support import office_files as office
from apps.tests.support.parsing import read
from apps.tests.support.processes import environment, run_module

# one loop for all, since all share one parsing process
pytestmark = [pytest.mark.local, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox(Limits(chunk_tokens=40, chunk_overlap=0.3), None)
    yield made
    await made.aclose()


async def test_a_pdf_has_pages(sandbox: Sandbox, tmp_path: Path) -> None:
    chunks, done = await read(sandbox, tmp_path, "a.pdf", made.pdf(["first page", "second page", "third page"]))
    assert done == {"kind": "pdf", "pages": 3, "metadata": {}, "warnings": []}
    assert [(chunk["page"], chunk["text"]) for chunk in chunks] == [
        (1, "first page"),
        (2, "second page"),
        (3, "third page"),
    ]
    starts = [chunk["start"] for chunk in chunks]
    assert starts == sorted(starts) and starts[0] == 0


async def test_a_docx_has_headings_and_tables(sandbox: Sandbox, tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    document.add_heading("Handbook", 1)
    document.add_paragraph("Welcome to the team.")
    document.add_heading("Holidays", 2)
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Paid days", "30"
    document.save(str(tmp_path / "made.docx"))
    chunks, done = await read(sandbox, tmp_path, "a.docx", (tmp_path / "made.docx").read_bytes())
    assert done["kind"] == "docx"
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        (["Handbook"], "# Handbook\n\nWelcome to the team."),
        (["Handbook", "Holidays"], "## Holidays\n\n| Paid days | 30 |"),
    ]


async def test_html_is_its_visible_text_under_its_headings(sandbox: Sandbox, tmp_path: Path) -> None:
    page = (
        "<!doctype html><title>no</title><body><script>no()</script><h1>Zoo</h1><p>Owls &amp;   bats"
        "<br>fly<h2>Food</h2><ul><li>Mice<li>Fruit</ul><style>no</style><pre>a  b</pre></body>"
    )
    chunks, done = await read(sandbox, tmp_path, "page", page.encode())
    assert done["kind"] == "html"
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        (["Zoo"], "# Zoo\n\nOwls & bats\nfly"),
        (["Zoo", "Food"], "## Food\n\n- Mice\n- Fruit\n\na  b"),
    ]


async def test_markdown_is_cut_at_headings_but_not_in_code(sandbox: Sandbox, tmp_path: Path) -> None:
    source = "intro\n\n# One\n\n```\n# no heading\n```\n\nTwo\n---\n\ntext\n"
    chunks, _ = await read(sandbox, tmp_path, "a.md", source.encode())
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        ([], "intro"),
        (["One"], "# One\n\n```\n# no heading\n```"),
        (["One", "Two"], "Two\n---\n\ntext"),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
async def test_a_csv_row_names_its_columns(sandbox: Sandbox, tmp_path: Path, delimiter: str) -> None:
    rows = [["name", "age"], ["Ann", "41"], ['"Bob, or ""B"""', ""], ["Eve", "7", "extra"]]
    chunks, done = await read(sandbox, tmp_path, "a.csv", "\r\n".join(delimiter.join(row) for row in rows).encode())
    assert done["kind"] == "csv"
    assert [chunk["text"] for chunk in chunks] == ['name: Ann; age: 41\nname: Bob, or "B"\nname: Eve; age: 7; extra']


async def test_other_kinds_are_read_within_the_limits_of_the_process(sandbox: Sandbox, tmp_path: Path) -> None:
    text = "<text:p>walrus</text:p>"
    cell = f'<table:table-cell office:value-type="string">{text}</table:table-cell>'
    table = f'<table:table table:name="Zoo"><table:table-row>{cell}</table:table-row></table:table>'
    files = {
        "a.pptx": office.slides(),
        "a.xlsx": office.workbook({"Other": [["walrus"]]}),
        "a.odt": office.open_document("text", text),
        "a.ods": office.open_document("spreadsheet", table),
        "a.rtf": rb"{\rtf1\ansi walrus\par}",
        "a.epub": office.epub({"a": "<p>walrus</p>"}, ["a"]),
        "a.eml": b"Subject: walrus\r\n\r\nIt is fat.\r\n",
    }
    for name, content in files.items():
        chunks, done = await read(sandbox, tmp_path, name, content)
        assert done["kind"] == {"a.eml": "email"}.get(name, name[2:])
        assert any("walrus" in chunk["text"] for chunk in chunks), name


async def test_the_parsing_process_reads_one_file_after_another_until_it_is_told_no_more(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("Two owls.\n\n\n\n\n\nOne bat.")
    (tmp_path / "bad").write_bytes(b"\x7fELF" + bytes(100))
    ocr = {"command": None, "languages": "eng", "reason": "RAG_OCR is off"}
    options = {"memory": 2**32, "seconds": 60, "chars": 100, "tokens": 40, "overlap": 0, "tokenizer": None, "ocr": ocr}
    files = [
        {"path": str(tmp_path / "good"), "name": "a.txt"},
        {"path": str(tmp_path / "bad"), "name": "b.txt"},
        {"path": str(tmp_path / "none"), "name": "c.txt"},
        {"path": str(tmp_path / "good"), "name": "d.txt"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in (options, *files))
    done = await asyncio.to_thread(run_module, "apps.rag.parsing.worker", [], tmp_path, environment(0, {}), text)
    assert (done.returncode, done.stderr) == (0, "")
    ready, *said = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": True}
    ends = [event for event in said if "chunk" not in event]
    assert [list(event) for event in ends] == [["done"], ["error"], ["error"], ["done"]]
    assert "It is a program" in ends[1]["error"]["message"]
    assert "(FileNotFoundError)" in ends[2]["error"]["message"]
    passages = [event["chunk"]["text"] for event in said if "chunk" in event]
    assert passages[:1] == passages[1:] == ["Two owls.\n\n\nOne bat."]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
async def test_text_is_read_in_its_encoding(sandbox: Sandbox, tmp_path: Path, encoding: str) -> None:
    chunks, _ = await read(sandbox, tmp_path, "a.txt", "Grüße, 北京 🦉".encode(encoding))
    assert [chunk["text"] for chunk in chunks] == ["Grüße, 北京 🦉"]
    assert codecs.lookup(encoding)


async def test_passages_overlap_and_their_spans_are_exact(sandbox: Sandbox, tmp_path: Path) -> None:
    text = " ".join(f"Sentence number {n} says something 🦉." for n in range(100))
    chunks, _ = await read(sandbox, tmp_path, "a.txt", text.encode())
    assert len(chunks) > 10
    assert all(text[chunk["start"] : chunk["end"]] == chunk["text"] for chunk in chunks)
    assert all(later["start"] < before["end"] for before, later in pairwise(chunks))
    assert all(len(chunk["text"]) <= 160 for chunk in chunks)


async def test_one_endless_word_becomes_passages_of_a_bounded_size(sandbox: Sandbox, tmp_path: Path) -> None:
    chunks, _ = await read(sandbox, tmp_path, "a.txt", b"x" * 50_000)
    assert max(len(chunk["text"]) for chunk in chunks) <= 800


async def test_the_process_is_used_again_and_holds_no_secret(sandbox: Sandbox, tmp_path: Path) -> None:
    await read(sandbox, tmp_path, "a.txt", b"one")
    process = sandbox._process
    assert process is not None
    await read(sandbox, tmp_path, "b.txt", b"two")
    assert sandbox._process is process
    if sys.platform == "linux":
        held = await asyncio.to_thread(Path(f"/proc/{process.pid}/environ").read_bytes)
        assert {entry.partition(b"=")[0] for entry in held.split(b"\0")} <= {
            *(b"", b"PATH", b"LANG", b"PYTHONPATH", b"PYTHONUTF8"),
            *(b"RAYON_NUM_THREADS", b"TOKENIZERS_PARALLELISM", b"MALLOC_ARENA_MAX"),
        }
