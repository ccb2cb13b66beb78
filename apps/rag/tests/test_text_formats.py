"""Pages, texts, tables and Markdown: read in the encoding that they have, as their reader sees them."""

from pathlib import Path
from typing import Any

import pytest

from apps.tests.support.parsing import Parser, read, text_of

pytestmark = pytest.mark.local


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
async def test_pages_are_what_a_browser_makes_of_them(parser: Parser, tmp_path: Path, page: str, expected: str) -> None:
    assert await text_of(parser, tmp_path, "a.html", page.encode()) == expected


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
async def test_texts_without_a_declaration_are_read(parser: Parser, tmp_path: Path, text: str, encoding: str) -> None:
    assert await text_of(parser, tmp_path, "a.txt", text.encode(encoding)) == text


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
    parser: Parser, tmp_path: Path, head: str, encoding: str
) -> None:
    word = {"cp1252": "Gebühr – fünf", "iso8859-2": "złotych", "cp932": "図書館"}[encoding]
    page = f"{head}<body><p>{word}".encode(encoding)
    assert await text_of(parser, tmp_path, "a.html", page) == word


async def test_a_few_wrong_bytes_in_utf8_are_told_and_cost_nothing_else(parser: Parser, tmp_path: Path) -> None:
    content = "Grüße aus Köln. ".encode() * 20 + b"\xff ende"
    chunks, done = await read(parser, tmp_path, "a.txt", content)
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
    parser: Parser, tmp_path: Path, content: str, expected: str
) -> None:
    assert await text_of(parser, tmp_path, "a.csv", content.encode()) == expected


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
    parser: Parser, tmp_path: Path, front: str, metadata: dict[str, Any]
) -> None:
    chunks, done = await read(parser, tmp_path, "a.md", f"{front}\nThe text.\n\n# Sick\n\nA note.\n".encode())
    assert [(chunk["headings"], chunk["text"]) for chunk in chunks] == [
        ([], "The text."),
        (["Sick"], "# Sick\n\nA note."),
    ]
    assert done["metadata"] == metadata


async def test_a_rule_at_the_top_is_no_front_matter_and_an_alias_no_bomb(parser: Parser, tmp_path: Path) -> None:
    for front in ("---\nWell: [then\n---\n", "---\na: &a [x]\nb: [*a, *a]\n---\n"):
        text = await text_of(parser, tmp_path, "a.md", f"{front}\nThe text.\n".encode())
        assert text.startswith("---") and text.endswith("The text.")


async def test_lines_of_markdown_end_at_newlines_alone(parser: Parser, tmp_path: Path) -> None:
    source = "# A\n\none\u2028two\u2028three\x0bfour\u2029five\n\n# B\n\nplums\n"
    chunks, _ = await read(parser, tmp_path, "a.md", source.encode())
    assert [chunk["headings"] for chunk in chunks] == [["A"], ["B"]]
    assert "plums" in chunks[1]["text"]
