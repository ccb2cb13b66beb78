"""Each kind of file, from bytes to passages, in the real parsing process."""

import asyncio
import codecs
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from apps.rag.limits import Limits
from apps.rag.parsing.sandbox import Sandbox
from apps.rag.tests import made_files as made

pytestmark = pytest.mark.local


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox(Limits(chunk_tokens=40, chunk_overlap=0.3), None)
    yield made
    await made.aclose()


async def parsed(sandbox: Sandbox, tmp_path: Path, name: str, content: bytes) -> tuple[list[Any], Any]:
    path = tmp_path / "upload"
    path.write_bytes(content)
    events: list[dict[str, Any]] = []
    done = await sandbox.parse(path, name, events.append)
    return [event["piece"] for event in events if "piece" in event], done


async def test_a_pdf_has_pages(sandbox: Sandbox, tmp_path: Path) -> None:
    pieces, done = await parsed(sandbox, tmp_path, "a.pdf", made.pdf(["first page", "second page", "third page"]))
    assert done == {"kind": "pdf", "pages": 3}
    assert [(piece["page"], piece["text"]) for piece in pieces] == [
        (1, "first page"),
        (2, "second page"),
        (3, "third page"),
    ]
    starts = [piece["start"] for piece in pieces]
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
    pieces, done = await parsed(sandbox, tmp_path, "a.docx", (tmp_path / "made.docx").read_bytes())
    assert done["kind"] == "docx"
    assert [(piece["headings"], piece["text"]) for piece in pieces] == [
        (["Handbook"], "Handbook\nWelcome to the team."),
        (["Handbook", "Holidays"], "Holidays\nPaid days | 30"),
    ]


async def test_html_is_its_visible_text_under_its_headings(sandbox: Sandbox, tmp_path: Path) -> None:
    page = (
        "<!doctype html><title>no</title><body><script>no()</script><h1>Zoo</h1><p>Owls &amp;   bats"
        "<br>fly<h2>Food</h2><ul><li>Mice<li>Fruit</ul><style>no</style><pre>a  b</pre></body>"
    )
    pieces, done = await parsed(sandbox, tmp_path, "page", page.encode())
    assert done["kind"] == "html"
    assert [(piece["headings"], piece["text"]) for piece in pieces] == [
        (["Zoo"], "Zoo\nOwls & bats\nfly"),
        (["Zoo", "Food"], "Food\nMice\nFruit\na  b"),
    ]


async def test_markdown_is_cut_at_headings_but_not_in_code(sandbox: Sandbox, tmp_path: Path) -> None:
    source = "intro\n\n# One\n\n```\n# no heading\n```\n\nTwo\n---\n\ntext\n"
    pieces, _ = await parsed(sandbox, tmp_path, "a.md", source.encode())
    assert [(piece["headings"], piece["text"]) for piece in pieces] == [
        ([], "intro"),
        (["One"], "# One\n\n```\n# no heading\n```"),
        (["One", "Two"], "Two\n---\n\ntext"),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
async def test_a_csv_row_names_its_columns(sandbox: Sandbox, tmp_path: Path, delimiter: str) -> None:
    rows = [["name", "age"], ["Ann", "41"], ['"Bob, or ""B"""', ""], ["Eve", "7", "extra"]]
    pieces, done = await parsed(sandbox, tmp_path, "a.csv", "\r\n".join(delimiter.join(row) for row in rows).encode())
    assert done["kind"] == "csv"
    assert [piece["text"] for piece in pieces] == ['name: Ann; age: 41\nname: Bob, or "B"\nname: Eve; age: 7; extra']


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
async def test_text_is_read_in_its_encoding(sandbox: Sandbox, tmp_path: Path, encoding: str) -> None:
    pieces, _ = await parsed(sandbox, tmp_path, "a.txt", "Grüße, 北京 🦉".encode(encoding))
    assert [piece["text"] for piece in pieces] == ["Grüße, 北京 🦉"]
    assert codecs.lookup(encoding)


async def test_passages_overlap_and_their_spans_are_exact(sandbox: Sandbox, tmp_path: Path) -> None:
    text = " ".join(f"Sentence number {n} says something 🦉." for n in range(100))
    pieces, _ = await parsed(sandbox, tmp_path, "a.txt", text.encode())
    assert len(pieces) > 10
    assert all(text[piece["start"] : piece["end"]] == piece["text"] for piece in pieces)
    assert all(later["start"] < before["end"] for before, later in pairwise(pieces))
    assert all(len(piece["text"]) <= 160 for piece in pieces)


async def test_one_endless_word_becomes_passages_of_a_bounded_size(sandbox: Sandbox, tmp_path: Path) -> None:
    pieces, _ = await parsed(sandbox, tmp_path, "a.txt", b"x" * 50_000)
    assert max(len(piece["text"]) for piece in pieces) <= 800


async def test_the_process_is_used_again_and_holds_no_secret(sandbox: Sandbox, tmp_path: Path) -> None:
    await parsed(sandbox, tmp_path, "a.txt", b"one")
    process = sandbox._process
    assert process is not None
    await parsed(sandbox, tmp_path, "b.txt", b"two")
    assert sandbox._process is process
    if sys.platform == "linux":
        held = await asyncio.to_thread(Path(f"/proc/{process.pid}/environ").read_bytes)
        assert {entry.partition(b"=")[0] for entry in held.split(b"\0")} <= {
            *(b"", b"PATH", b"LANG", b"PYTHONPATH", b"PYTHONUTF8"),
            *(b"RAYON_NUM_THREADS", b"TOKENIZERS_PARALLELISM", b"MALLOC_ARENA_MAX"),
        }
