"""Office documents as people have them: what is in them is found, what was deleted from them is not."""

import datetime
from email.message import EmailMessage
from pathlib import Path

import pytest

from apps.tests.support import office_files as office
from apps.tests.support.office_files import p, run
from apps.tests.support.parsing import Parser, read, text_of

pytestmark = pytest.mark.local

PLAIN = office.word(p(run("Employees get twenty five days of leave.")))
MAIN = "application/vnd.ms-word.document.macroEnabled.main+xml"
TEMPLATE = "application/vnd.openxmlformats-officedocument.wordprocessingml.template.main+xml"
LEAVE = "Employees get twenty five days of leave."
BOX = f"<w:txbxContent>{p(run('box pelican'))}</w:txbxContent>"
CELL = f"<w:sdt><w:sdtContent><w:tc>{p(run('cell ibis'))}</w:tc></w:sdtContent></w:sdt>"

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
async def test_word_documents_say_what_their_reader_sees(parser: Parser, tmp_path: Path, what: str) -> None:
    block, has, lacks = WORD[what]
    text = await text_of(parser, tmp_path, "a.docx", office.word(block))
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
async def test_every_flavour_of_word_package_is_read(parser: Parser, tmp_path: Path, name: str, package: bytes) -> None:
    assert await text_of(parser, tmp_path, name, package) == LEAVE


async def test_headings_are_known_by_their_style_in_every_language(parser: Parser, tmp_path: Path) -> None:
    block = p(f'<w:pPr><w:pStyle w:val="Heading2"/></w:pPr>{run("Urlaub")}')
    german = office.rewritten(
        office.word(block, p(run("dreißig Tage"))),
        lambda name, data: (name, data.replace(b'"Heading2"', b'"berschrift2"')),
    )
    chunks, _ = await read(parser, tmp_path, "a.docx", german)
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [(["Urlaub"], "## Urlaub\n\ndreißig Tage")]


async def test_notes_comments_headers_and_footers_are_read_once(parser: Parser, tmp_path: Path) -> None:
    refers = "<w:r><w:footnoteReference w:id='2'/></w:r><w:r><w:endnoteReference w:id='2'/></w:r>"
    refers += "<w:r><w:commentReference w:id='0'/></w:r>"
    package = office.with_notes(
        office.word(p(run("The fee") + refers + run(" is due.")), p(run("Last.")), header="HEAD", footer="FOOT"),
        footnotes=f'<w:footnote w:id="2">{p(run("Five euros."))}</w:footnote>',
        endnotes=f'<w:endnote w:id="2">{p(run("Since May."))}</w:endnote>',
        comments=f'<w:comment w:id="0" w:author="Zoe">{p(run("Is it?"))}</w:comment>',
    )
    text = await text_of(parser, tmp_path, "a.docx", package)
    assert text == "HEAD\n\nFOOT\n\nThe fee is due.\n\nFive euros.\n\nSince May.\n\nComment by Zoe:\n\nIs it?\n\nLast."


async def test_what_a_document_holds_beside_text_is_told(parser: Parser, tmp_path: Path) -> None:
    package = office.word(p(f"{run('see')}<w:r><w:pict><v:shape><v:imagedata/></v:shape></w:pict></w:r>"))
    _, done = await read(parser, tmp_path, "a.docx", package)
    assert done["warnings"] == ["pictures not read: 1"]


async def test_slides_have_pages_in_their_order_titles_tables_and_notes(parser: Parser, tmp_path: Path) -> None:
    chunks, done = await read(parser, tmp_path, "a.pptx", office.slides())
    assert done["pages"] == 3
    told = [(chunk["page"], chunk["headings"], chunk["text"]) for chunk in chunks]
    rest = "grouped badger {0}\n\n| Basic | 10 | 10 |\n\nspoken walrus {0}"
    assert told == [
        (1, [], rest.format(1)),
        (2, ["Begins"], "# Begins\n\n" + rest.format(2)),
        (3, ["Ends with AT&T <x>"], "# Ends with AT&T <x>\n\n" + rest.format(0)),
    ]


async def test_sheets_are_tables_under_their_names(parser: Parser, tmp_path: Path) -> None:
    rows: list[list[object]] = [
        ["Plan", "R&D <x>", "When"],
        ["Basic", 5, datetime.date(2024, 5, 1)],
        ["Pro", 9.5, True],
    ]
    book = office.workbook({"Prices": rows, "Other": [["walrus"]]})
    chunks, _ = await read(parser, tmp_path, "a.xlsx", book)
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        (["Prices"], "## Prices\n\n| Plan | R&D <x> | When |\n| Basic | 5 | 2024-05-01 |\n| Pro | 9.5 | true |"),
        (["Other"], "## Other\n\n| walrus |"),
    ]


async def test_every_part_of_a_long_table_begins_with_its_first_row(parser: Parser, tmp_path: Path) -> None:
    rows: list[list[object]] = [["Part", "Price"], *([f"seal kit {number}", number] for number in range(300))]
    chunks, _ = await read(parser, tmp_path, "a.xlsx", office.workbook({"Parts": rows}))
    assert len(chunks) > 5
    assert all("| Part | Price |" in chunk["text"] for chunk in chunks)
    assert sum(chunk["text"].count("| seal kit") for chunk in chunks) == 300


async def test_open_document_texts_are_read_whole(parser: Parser, tmp_path: Path) -> None:
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
    chunks, _ = await read(parser, tmp_path, "a.odt", office.open_document("text", body, styles))
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        ([], "running"),
        (["Fees"], "## Fees\n\nR&D  pays all.\n\nnoted\n\nframed\n\n- item\n\n| 10 | 10 | 12 |"),
    ]


async def test_open_document_sheets_are_tables(parser: Parser, tmp_path: Path) -> None:
    cells = "".join(
        f'<table:table-cell office:value-type="string"><text:p>{text}</text:p></table:table-cell>'
        for text in ("Basic", "5")
    )
    body = f'<table:table table:name="Prices"><table:table-row>{cells}</table:table-row></table:table>'
    text = await text_of(parser, tmp_path, "a.ods", office.open_document("spreadsheet", body))
    assert "| Basic | 5 |" in text and "Prices" in text


async def test_rtf_is_read_with_its_code_page_and_tables(parser: Parser, tmp_path: Path) -> None:
    rtf = rb"{\rtf1\ansi\ansicpg1252 Die Geb\'fchr <x> R&D \b bold\b0\par\trowd\cellx9\cellx99 A1\cell B1\cell\row\par}"
    text = await text_of(parser, tmp_path, "a.rtf", rtf)
    assert "Die Gebühr <x> R&D bold" in text and "| A1 | B1 |" in text


async def test_a_book_is_read_in_the_order_of_its_spine(parser: Parser, tmp_path: Path) -> None:
    pages = {"b": "<h1>Two</h1><div>R&amp;D</div>", "a": "<h1>One</h1><dl><dt>T</dt><dd>D</dd></dl>"}
    chunks, _ = await read(parser, tmp_path, "a.epub", office.epub(pages, ["a", "b"]))
    assert [chunk["text"] for chunk in chunks] == ["# One\n\nT\n\nD", "# Two\n\nR&D"]


async def test_an_email_is_its_head_its_text_and_its_attachments(parser: Parser, tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"], message["From"] = "Grüße aus Köln", "Ann <ann@example.com>"
    message.set_content("Die Gebühr ist fünf Euro.\n", charset="iso-8859-1")
    message.add_alternative("<p>Die Gebühr ist fünf Euro.</p>", subtype="html")
    message.add_attachment(b"a;b\r\nwalrus;2\r\n", maintype="text", subtype="csv", filename="../list.csv")
    message.add_attachment(b"\x7fELF" + bytes(100), maintype="application", subtype="x", filename="tool")
    chunks, done = await read(parser, tmp_path, "a.eml", message.as_bytes())
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        ([], "Subject: Grüße aus Köln\nFrom: Ann <ann@example.com>"),
        ([], "Die Gebühr ist fünf Euro."),
        (["list.csv"], "a: walrus; b: 2"),
    ]
    assert done["warnings"] == ["The attachment tool was not read. The file cannot be read. It is a program"]
