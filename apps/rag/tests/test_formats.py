"""Documents as people have them: what is in them is found, what was deleted from them is not."""

import datetime
import shutil
import zlib
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from apps.core.errors import InvalidValue
from apps.rag.parsing.sandbox import Sandbox
from apps.rag.records import Limits
from apps.tests.support import made_files as made
from apps.tests.support import office_files as office
from apps.tests.support.office_files import p, run

pytestmark = pytest.mark.local

PLAIN = office.word(p(run("Employees get twenty five days of leave.")))
MAIN = "application/vnd.ms-word.document.macroEnabled.main+xml"
TEMPLATE = "application/vnd.openxmlformats-officedocument.wordprocessingml.template.main+xml"
LEAVE = "Employees get twenty five days of leave."
BOX = f"<w:txbxContent>{p(run('box pelican'))}</w:txbxContent>"
CELL = f"<w:sdt><w:sdtContent><w:tc>{p(run('cell ibis'))}</w:tc></w:sdtContent></w:sdt>"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox(Limits(), None)
    yield made
    await made.aclose()


async def read(sandbox: Sandbox, tmp_path: Path, name: str, content: bytes) -> tuple[list[Any], dict[str, Any]]:
    path = tmp_path / "upload"
    path.write_bytes(content)
    events: list[dict[str, Any]] = []
    done = await sandbox.parse(path, name, events.append)
    return [event["chunk"] for event in events if "chunk" in event], done


async def text_of(sandbox: Sandbox, tmp_path: Path, name: str, content: bytes) -> str:
    chunks, _ = await read(sandbox, tmp_path, name, content)
    return "\n\n".join(chunk["text"] for chunk in chunks)


WORD: dict[str, tuple[str, str, str]] = {
    "a tracked insertion": (
        p(f"{run('ninety ')}<w:ins>{run('days')}</w:ins>{run(' for all')}"),
        "ninety days for all",
        "",
    ),
    "a tracked deletion": (p(f"{run('a')}<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"), "a", "gone"),
    "a tracked move": (
        p(f"<w:moveFrom>{run('from')}</w:moveFrom><w:moveTo>{run('there')}</w:moveTo>"),
        "there",
        "from",
    ),
    "an inserted paragraph": (f"<w:ins>{p(run('whole'))}</w:ins>", "whole", ""),
    "a content control": (f"<w:sdt><w:sdtContent>{p(run('walrus'))}</w:sdtContent></w:sdt>", "walrus", ""),
    "a control in a line": (p(f"{run('in ')}<w:sdt><w:sdtContent>{run('line')}</w:sdtContent></w:sdt>"), "in line", ""),
    "a control around a cell": (
        f"<w:tbl><w:tr>{CELL}<w:tc>{p(run('b'))}</w:tc></w:tr></w:tbl>",
        "| cell ibis | b |",
        "",
    ),
    "a simple field": (p(f'<w:fldSimple w:instr="PAGE">{run("ocelot")}</w:fldSimple>'), "ocelot", "PAGE"),
    "a smart tag": (p(f"<w:smartTag>{run('lemur')}</w:smartTag>"), "lemur", ""),
    "custom XML": (f"<w:customXml>{p(run('marmot'))}</w:customXml>", "marmot", ""),
    "a link": (p(f"<w:hyperlink>{run('gecko')}</w:hyperlink>"), "gecko", ""),
    "a text box of before": (
        p(f"<w:r><w:pict><v:shape><v:textbox>{BOX}</v:textbox></v:shape></w:pict></w:r>"),
        "box pelican",
        "",
    ),
    "a text box twice over": (
        p(
            f'<w:r><mc:AlternateContent><mc:Choice Requires="s"><s:wsp>{BOX}</s:wsp></mc:Choice><mc:Fallback><w:pict>'
            f"<v:textbox>{BOX}</v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r>"
        ),
        "box pelican",
        "box pelican\n\nbox pelican",
    ),
    "signs of XML": (p(run("R&amp;D &lt;x&gt; AT&amp;amp;T")), "R&D <x> AT&amp;T", ""),
    "signs of Markdown": (p(run("a_b*c#d [x](y) 1. |")), "a_b*c#d [x](y) 1. |", "\\"),
    "formatting within a word": (
        p(f"{run('bro')}<w:r><w:rPr><w:b/></w:rPr><w:t>ken</w:t></w:r>{run('word')}"),
        "brokenword",
        "",
    ),
    "hidden text": (p(f"<w:r><w:rPr><w:vanish/></w:rPr><w:t>unseen</w:t></w:r>{run('seen')}"), "seen", "unseen"),
    "a hyphen of its own": (p(f"{run('non')}<w:r><w:noBreakHyphen/></w:r>{run('stop')}"), "non-stop", ""),
    "a formula": (p("<m:oMath><m:r><m:t>mass</m:t></m:r></m:oMath>"), "mass", ""),
    "a nested table": (
        f"<w:tbl><w:tr><w:tc>{p(run('outer'))}<w:tbl><w:tr><w:tc>{p(run('inner'))}</w:tc></w:tr></w:tbl><w:p/></w:tc>"
        "</w:tr></w:tbl>",
        "| outer inner |",
        "",
    ),
    "equal neighbours": (
        f"<w:tbl><w:tr>{''.join(f'<w:tc>{p(run(cell))}</w:tc>' for cell in ('Pro', '10', '10', '12'))}</w:tr></w:tbl>",
        "| Pro | 10 | 10 | 12 |",
        "",
    ),
}


@pytest.mark.parametrize("what", WORD)
async def test_word_documents_say_what_their_reader_sees(sandbox: Sandbox, tmp_path: Path, what: str) -> None:
    block, has, lacks = WORD[what]
    text = await text_of(sandbox, tmp_path, "a.docx", office.word(block))
    assert has in text
    assert not lacks or lacks not in text


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("a.docx", office.moved_main_part(PLAIN)),
        ("a.docm", office.of_type(PLAIN, MAIN)),
        ("a.dotx", office.of_type(PLAIN, TEMPLATE)),
        ("a.docx", office.strict(PLAIN)),
    ],
    ids=["of Word on the web", "with macros", "a template", "strict"],
)
async def test_every_flavour_of_word_package_is_read(
    sandbox: Sandbox, tmp_path: Path, name: str, package: bytes
) -> None:
    assert await text_of(sandbox, tmp_path, name, package) == LEAVE


async def test_headings_are_known_by_their_style_in_every_language(sandbox: Sandbox, tmp_path: Path) -> None:
    block = p(f'<w:pPr><w:pStyle w:val="Heading2"/></w:pPr>{run("Urlaub")}')
    german = office.rewritten(
        office.word(block, p(run("dreißig Tage"))),
        lambda name, data: (name, data.replace(b'"Heading2"', b'"berschrift2"')),
    )
    chunks, _ = await read(sandbox, tmp_path, "a.docx", german)
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [(["Urlaub"], "## Urlaub\n\ndreißig Tage")]


async def test_notes_comments_headers_and_footers_are_read_once(sandbox: Sandbox, tmp_path: Path) -> None:
    refers = "<w:r><w:footnoteReference w:id='2'/></w:r><w:r><w:endnoteReference w:id='2'/></w:r>"
    refers += "<w:r><w:commentReference w:id='0'/></w:r>"
    package = office.with_notes(
        office.word(p(run("The fee") + refers + run(" is due.")), p(run("Last.")), header="HEAD", footer="FOOT"),
        footnotes=f'<w:footnote w:id="2">{p(run("Five euros."))}</w:footnote>',
        endnotes=f'<w:endnote w:id="2">{p(run("Since May."))}</w:endnote>',
        comments=f'<w:comment w:id="0" w:author="Zoe">{p(run("Is it?"))}</w:comment>',
    )
    text = await text_of(sandbox, tmp_path, "a.docx", package)
    assert text == "HEAD\n\nFOOT\n\nThe fee is due.\n\nFive euros.\n\nSince May.\n\nComment by Zoe:\n\nIs it?\n\nLast."


async def test_what_a_document_holds_beside_text_is_told(sandbox: Sandbox, tmp_path: Path) -> None:
    package = office.word(p(f"{run('see')}<w:r><w:pict><v:shape><v:imagedata/></v:shape></w:pict></w:r>"))
    _, done = await read(sandbox, tmp_path, "a.docx", package)
    assert done["warnings"] == ["pictures not read: 1"]


async def test_slides_have_pages_in_their_order_titles_tables_and_notes(sandbox: Sandbox, tmp_path: Path) -> None:
    chunks, done = await read(sandbox, tmp_path, "a.pptx", office.slides())
    assert done["pages"] == 3
    told = [(chunk["page"], chunk["headings"], chunk["text"]) for chunk in chunks]
    rest = "grouped badger {0}\n\n| Basic | 10 | 10 |\n\nspoken walrus {0}"
    assert told == [
        (1, [], rest.format(1)),
        (2, ["Begins"], "# Begins\n\n" + rest.format(2)),
        (3, ["Ends with AT&T <x>"], "# Ends with AT&T <x>\n\n" + rest.format(0)),
    ]


async def test_sheets_are_tables_under_their_names(sandbox: Sandbox, tmp_path: Path) -> None:
    rows: list[list[object]] = [
        ["Plan", "R&D <x>", "When"],
        ["Basic", 5, datetime.date(2024, 5, 1)],
        ["Pro", 9.5, True],
    ]
    book = office.workbook({"Prices": rows, "Other": [["walrus"]]})
    chunks, _ = await read(sandbox, tmp_path, "a.xlsx", book)
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        (["Prices"], "## Prices\n\n| Plan | R&D <x> | When |\n| Basic | 5 | 2024-05-01 |\n| Pro | 9.5 | true |"),
        (["Other"], "## Other\n\n| walrus |"),
    ]


async def test_every_part_of_a_long_table_begins_with_its_first_row(sandbox: Sandbox, tmp_path: Path) -> None:
    rows: list[list[object]] = [["Part", "Price"], *([f"seal kit {number}", number] for number in range(300))]
    chunks, _ = await read(sandbox, tmp_path, "a.xlsx", office.workbook({"Parts": rows}))
    assert len(chunks) > 5
    assert all("| Part | Price |" in chunk["text"] for chunk in chunks)
    assert sum(chunk["text"].count("| seal kit") for chunk in chunks) == 300


async def test_open_document_texts_are_read_whole(sandbox: Sandbox, tmp_path: Path) -> None:
    body = (
        "<text:tracked-changes><text:changed-region><text:deletion><text:p>gone</text:p></text:deletion>"
        '</text:changed-region></text:tracked-changes><text:h text:outline-level="2">Fees</text:h>'
        '<text:p>R&amp;D<text:s text:c="2"/>pays<text:note><text:note-citation>1</text:note-citation>'
        "<text:note-body><text:p>noted</text:p></text:note-body></text:note> all.</text:p>"
        "<draw:frame><draw:text-box><text:p>framed</text:p></draw:text-box></draw:frame>"
        "<text:section><text:list><text:list-item><text:p>item</text:p></text:list-item></text:list></text:section>"
        '<table:table><table:table-row><table:table-cell table:number-columns-repeated="2"><text:p>10</text:p>'
        "</table:table-cell><table:table-cell><text:p>12</text:p></table:table-cell></table:table-row></table:table>"
    )
    styles = (
        "<office:master-styles><style:master-page><style:header><text:p>running</text:p></style:header>"
        "</style:master-page></office:master-styles>"
    )
    chunks, _ = await read(sandbox, tmp_path, "a.odt", office.open_document("text", body, styles))
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        ([], "running"),
        (["Fees"], "## Fees\n\nR&D  pays all.\n\nnoted\n\nframed\n\n- item\n\n| 10 | 10 | 12 |"),
    ]


async def test_open_document_sheets_are_tables(sandbox: Sandbox, tmp_path: Path) -> None:
    cells = "".join(
        f'<table:table-cell office:value-type="string"><text:p>{text}</text:p></table:table-cell>'
        for text in ("Basic", "5")
    )
    body = f'<table:table table:name="Prices"><table:table-row>{cells}</table:table-row></table:table>'
    text = await text_of(sandbox, tmp_path, "a.ods", office.open_document("spreadsheet", body))
    assert "| Basic | 5 |" in text and "Prices" in text


async def test_rtf_is_read_with_its_code_page_and_tables(sandbox: Sandbox, tmp_path: Path) -> None:
    rtf = rb"{\rtf1\ansi\ansicpg1252 Die Geb\'fchr <x> R&D \b bold\b0\par\trowd\cellx9\cellx99 A1\cell B1\cell\row\par}"
    text = await text_of(sandbox, tmp_path, "a.rtf", rtf)
    assert "Die Gebühr <x> R&D bold" in text and "| A1 | B1 |" in text


async def test_a_book_is_read_in_the_order_of_its_spine(sandbox: Sandbox, tmp_path: Path) -> None:
    pages = {"b": "<h1>Two</h1><div>R&amp;D</div>", "a": "<h1>One</h1><dl><dt>T</dt><dd>D</dd></dl>"}
    chunks, _ = await read(sandbox, tmp_path, "a.epub", office.epub(pages, ["a", "b"]))
    assert [chunk["text"] for chunk in chunks] == ["# One\n\nT\n\nD", "# Two\n\nR&D"]


async def test_an_email_is_its_head_its_text_and_its_attachments(sandbox: Sandbox, tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"], message["From"] = "Grüße aus Köln", "Ann <ann@example.com>"
    message.set_content("Die Gebühr ist fünf Euro.\n", charset="iso-8859-1")
    message.add_alternative("<p>Die Gebühr ist fünf Euro.</p>", subtype="html")
    message.add_attachment(b"a;b\r\nwalrus;2\r\n", maintype="text", subtype="csv", filename="../list.csv")
    message.add_attachment(b"\x7fELF" + bytes(100), maintype="application", subtype="x", filename="tool")
    chunks, done = await read(sandbox, tmp_path, "a.eml", message.as_bytes())
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        ([], "Subject: Grüße aus Köln\nFrom: Ann <ann@example.com>"),
        ([], "Die Gebühr ist fünf Euro."),
        (["list.csv"], "a: walrus; b: 2"),
    ]
    assert done["warnings"] == ["The attachment tool was not read. The file cannot be read. It is a program"]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<head><title>t</title><body><p>opens at nine", "opens at nine"),
        ("<h2>Refunds<p>take days.</p><p>Write.</p>", "## Refunds\n\ntake days.\n\nWrite."),
        ("<ul>" + "".join(f"<li>Item {n}" for n in range(3)) + "</ul>", "- Item 0\n- Item 1\n- Item 2"),
        ("<p>Caf&eacute; &amp; &#x1F600; &lt;b&gt;", "Café & 😀 <b>"),
        ("<script>a='<p>s</p>'</script><!-- c --><p hidden>h</p><template>t</template>x", "x"),
        (
            "<table><tr><th>City<th>People<tr><td>Springfield<td>30720</table>",
            "| City | People |\n| Springfield | 30720 |",
        ),
        ("<table><tr><td>x<table><tr><td>in</table></table>", "x\n\nin"),
        ("<dl><dt>T<dd>D</dl><details><summary>S</summary>in</details><figure><figcaption>F", "T\n\nD\n\nS\n\nin\n\nF"),
        ("<div>a<div>b</div>c</div>d", "a\n\nb\n\nc\n\nd"),
        ("one<br>two <b>bo</b>ld <input value=V><img alt=owl>", "one\ntwo bold V owl"),
    ],
)
async def test_pages_are_what_a_browser_makes_of_them(
    sandbox: Sandbox, tmp_path: Path, page: str, expected: str
) -> None:
    assert await text_of(sandbox, tmp_path, "a.html", page.encode()) == expected


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Die Gebühr beträgt fünf Euro – für Schüler “gratis”.", "cp1252"),
        ("Müller", "cp1252"),
        ("El niño pagó mañana.", "cp1252"),
        ("Zażółć gęślą jaźń. Opłata wynosi pięć złotych.", "cp1250"),
        ("Zażółć gęślą jaźń. Opłata wynosi pięć złotych.", "iso8859-2"),
        ("Плата составляет пять евро для учеников.", "cp1251"),
        ("Плата составляет пять евро для учеников.", "koi8_r"),
        ("Το τέλος είναι πέντε ευρώ για μαθητές.", "cp1253"),
        ("料金は五ユーロです。図書館は火曜日に九時に開きます。", "cp932"),
        ("料金は五ユーロです。図書館は火曜日に九時に開きます。", "euc_jp"),
        ("料金は五ユーロです。", "iso2022_jp"),
        ("图书馆星期二九点开门。费用是五欧元。", "gb18030"),
        ("Name Ort Jürgen Köln", "utf-16-le"),
        ("Name Ort Jürgen Köln", "utf-16"),
    ],
)
async def test_texts_without_a_declaration_are_read(sandbox: Sandbox, tmp_path: Path, text: str, encoding: str) -> None:
    assert await text_of(sandbox, tmp_path, "a.txt", text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<meta charset="windows-1252">', "cp1252"),
        ("<meta http-equiv=Content-Type content='text/html; charset=iso-8859-1'>", "cp1252"),
        ("<meta charset=iso-8859-2>", "iso8859-2"),
        ("<?xml version='1.0' encoding='shift_jis'?>", "cp932"),
    ],
)
async def test_a_page_is_read_in_the_encoding_that_it_declares(
    sandbox: Sandbox, tmp_path: Path, head: str, encoding: str
) -> None:
    word = {"cp1252": "Gebühr – fünf", "iso8859-2": "złotych", "cp932": "図書館"}[encoding]
    page = f"{head}<body><p>{word}".encode(encoding)
    assert await text_of(sandbox, tmp_path, "a.html", page) == word


async def test_a_few_wrong_bytes_in_utf8_are_told_and_cost_nothing_else(sandbox: Sandbox, tmp_path: Path) -> None:
    content = "Grüße aus Köln. ".encode() * 20 + b"\xff ende"
    chunks, done = await read(sandbox, tmp_path, "a.txt", content)
    assert chunks[0]["text"].startswith("Grüße aus Köln.") and chunks[-1]["text"].endswith("ende")
    assert done["warnings"] == ["1 places could not be decoded as utf-8"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('"Name, Vorname";Alter\n"Meier, Anna";34\n', "Name, Vorname: Meier, Anna; Alter: 34"),
        ("sep=;\nName;Betrag\nAnna;12,50\n", "Name: Anna; Betrag: 12,50"),
        ('"sep=|"\nName|Betrag\nAnna|12,50\n', "Name: Anna; Betrag: 12,50"),
        ("Name;Betrag\nAnna;12,50\nBernd;7,10\n", "Name: Anna; Betrag: 12,50\nName: Bernd; Betrag: 7,10"),
        ("Name\tOrt, Land\nJo\tUlm, D\n", "Name: Jo; Ort, Land: Ulm, D"),
        ("Note\nHello, world\nplain\n", "Note: Hello, world\nNote: plain"),
        ("time\n10:30\n", "time: 10:30"),
        ('Part;Size\n"Valve "x" old";7\nPipe;5" wide\n', 'Part: Valve x" old"; Size: 7\nPart: Pipe; Size: 5" wide'),
        ('Part;Size\nBolt;"3\nWasher;4\n', 'Part: Bolt; Size: "3\nPart: Washer; Size: 4'),
    ],
)
async def test_the_delimiter_of_a_csv_is_the_one_that_gives_equal_rows(
    sandbox: Sandbox, tmp_path: Path, content: str, expected: str
) -> None:
    assert await text_of(sandbox, tmp_path, "a.csv", content.encode()) == expected


@pytest.mark.parametrize(
    ("front", "metadata"),
    [
        (
            "---\ntitle: Rules\ndate: 2024-05-01\ntags: [hr, leave]\ndraft: false\n---\n",
            {"title": "Rules", "date": "2024-05-01", "tags": "hr, leave", "draft": False},
        ),
        ('+++\ntitle = "Rules"\nweight = 3\n+++\n', {"title": "Rules", "weight": 3}),
        ("---\n---\n", {}),
    ],
)
async def test_front_matter_is_metadata_and_no_passage(
    sandbox: Sandbox, tmp_path: Path, front: str, metadata: dict[str, Any]
) -> None:
    chunks, done = await read(sandbox, tmp_path, "a.md", f"{front}\nThe text.\n\n# Sick\n\nA note.\n".encode())
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        ([], "The text."),
        (["Sick"], "# Sick\n\nA note."),
    ]
    assert done["metadata"] == metadata


async def test_a_rule_at_the_top_is_no_front_matter_and_an_alias_no_bomb(sandbox: Sandbox, tmp_path: Path) -> None:
    for front in ("---\nWell: [then\n---\n", "---\na: &a [x]\nb: [*a, *a]\n---\n"):
        text = await text_of(sandbox, tmp_path, "a.md", f"{front}\nThe text.\n".encode())
        assert text.startswith("---") and text.endswith("The text.")


async def test_lines_of_markdown_end_at_newlines_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    source = "# A\n\none\u2028two\u2028three\x0bfour\u2029five\n\n# B\n\nplums\n"
    chunks, _ = await read(sandbox, tmp_path, "a.md", source.encode())
    assert [chunk["headings"] for chunk in chunks] == [["A"], ["B"]]
    assert "plums" in chunks[1]["text"]


def form(value: str) -> bytes:
    """A PDF with a field that is filled in, as a form program writes it."""
    page = made.pdf(["Name of the applicant"])
    field = f"<</Type/Annot/Subtype/Widget/FT/Tx/T(surname)/V({value})/Rect[0 0 100 20]/P 3 0 R>>"
    page = page.replace(b"/Type/Catalog", f"/Type/Catalog/AcroForm<</Fields[{field}]>>".encode())
    return page.replace(b"/Type/Page/", f"/Type/Page/Annots[{field}]/".encode())


async def test_what_is_filled_into_a_form_is_read(sandbox: Sandbox, tmp_path: Path) -> None:
    assert await text_of(sandbox, tmp_path, "a.pdf", form("Zanzibar")) == "Name of the applicant\nsurname: Zanzibar"


async def test_hyphens_at_the_ends_of_lines_stay_what_they_are(sandbox: Sandbox, tmp_path: Path) -> None:
    assert await text_of(sandbox, tmp_path, "a.pdf", made.pdf(["The docu-\nmentation"])) == "The docu-\nmentation"


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
async def test_pictures_and_scanned_pages_are_recognised_where_tesseract_is(sandbox: Sandbox, tmp_path: Path) -> None:
    assert "pelican" in await text_of(sandbox, tmp_path, "a.png", scan("A white pelican", tmp_path))
    chunks, done = await read(sandbox, tmp_path, "a.pdf", scanned_pdf(tmp_path, "A grey walrus"))
    assert [chunk["page"] for chunk in chunks] == [1] and "walrus" in chunks[0]["text"]
    assert done["warnings"] == []


async def test_without_recognition_the_error_says_so_and_a_page_is_told(tmp_path: Path) -> None:
    sandbox = Sandbox(Limits(ocr=False), None)
    try:
        with pytest.raises(InvalidValue, match="RAG_OCR is off"):
            await text_of(sandbox, tmp_path, "a.png", scan("A white pelican", tmp_path))
        with pytest.raises(InvalidValue, match=r"pictures: 1 \(RAG_OCR is off\)"):
            await text_of(sandbox, tmp_path, "a.pdf", scanned_pdf(tmp_path, "A grey walrus"))
    finally:
        await sandbox.aclose()


@pytest.mark.long
async def test_a_picture_that_unpacks_to_a_huge_one_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    def part(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    side = 60_000
    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", made.deflated(2**30)) + part(b"IEND", b"")
    with pytest.raises(InvalidValue, match="image"):
        await text_of(sandbox, tmp_path, "a.png", png)
