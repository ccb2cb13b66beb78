"""Documents of kinds that people upload, each with the words that must be found in it and those that must not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage

from apps.tests.support import made_files as made
from apps.tests.support import office_files as office
from apps.tests.support.office_files import p, run


@dataclass(frozen=True, slots=True)
class DocumentCase:
    """``has`` stand in one of its passages each, ``never`` in none; ``headings`` are those of the passage with a text.

    ``metadata`` are fields that its passages have, as the document says them of itself. ``answers`` are questions with
    what their best passage says. ``error`` is for what cannot be taken in.
    """

    name: str
    content: bytes
    has: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    headings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    error: bool = False


def document_cases() -> list[DocumentCase]:
    return [*_word(), *_other_office(), *_pages(), *_markdown(), *_tables(), *_texts(), *_refused()]


def _word() -> Iterator[DocumentCase]:
    rows = (("Plan", "Jan", "Feb", "Mar"), ("Basic", "10", "10", "12"), ("Pro", "yes", "yes", "no"))
    yield DocumentCase("equal_cells.docx", office.word(_table(rows)), ("Basic", "10 | 10 | 12", "yes | yes | no"))
    merged = (
        '<w:tbl><w:tblPr/><w:tblGrid/><w:tr><w:tc><w:tcPr><w:gridSpan w:val="2"/></w:tcPr>'
        f"{p(run('MERGED heron'))}</w:tc></w:tr><w:tr><w:tc>{p(run('left egret'))}</w:tc>"
        f"<w:tc>{p(run('right stork'))}</w:tc></w:tr></w:tbl>"
    )
    yield DocumentCase("merged.docx", office.word(merged), ("heron", "left egret | right stork"))
    told = 'w:id="1" w:author="A" w:date="2024-01-01T00:00:00Z"'
    gone = "<w:r><w:delText>thirty days</w:delText></w:r>"
    tracked = p(
        f"{run('The notice period is ')}<w:ins {told}>{run('ninety days')}</w:ins><w:del {told}>{gone}</w:del>"
        f"{run(' for all staff.')}"
    )
    whole = p(f"<w:ins {told}>{run('Remote work is allowed on Zanzibar days.')}</w:ins>")
    away = p(f"<w:moveFrom {told}>{run('MOVEDAWAY tapir')}</w:moveFrom>")
    here = p(f"<w:moveTo {told}>{run('MOVEDHERE okapi')}</w:moveTo>")
    row = f"<w:tr><w:trPr><w:del {told}/></w:trPr><w:tc>{p(f'<w:del {told}>{gone}</w:del>')}</w:tc></w:tr>"
    new = p(f"<w:ins {told}>{run('ADDEDROW quokka')}</w:ins>")
    added = f"<w:tr><w:trPr><w:ins {told}/></w:trPr><w:tc>{new}</w:tc></w:tr>"
    table = f"<w:tbl><w:tblPr/><w:tblGrid/>{row}{added}</w:tbl>"
    changed = office.word(tracked, whole, away, here, table)
    sure = ("ninety days for all staff", "Remote work is allowed on Zanzibar days", "okapi", "quokka")
    yield DocumentCase("tracked.docx", changed, sure, ("thirty days", "tapir"))
    yield DocumentCase(
        "special.docx",
        _special(),
        (
            *("pelican", "walrus", "badger", "ocelot", "lemur", "gecko", "marmot", "ibis", "toucan", "hoopoe"),
            *("narwhal", "dugong", "manatee", "axolotl"),
        ),
        ("UNSEENTEXT",),
    )
    leave = "Employees get twenty five days of leave."
    plain = office.word('<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr>' + run("Policy") + "</w:p>", p(run(leave)))
    found = ("twenty five days of leave",)
    macro = "application/vnd.ms-word.document.macroEnabled.main+xml"
    template = "application/vnd.openxmlformats-officedocument.wordprocessingml.template.main+xml"
    both = "application/vnd.ms-word.template.macroEnabledTemplate.main+xml"
    under = {leave: ("Policy",)}
    yield DocumentCase("wordonline.docx", office.moved_main_part(plain), found, headings=under)
    yield DocumentCase("macro.docm", office.of_type(plain, macro), found, headings=under)
    yield DocumentCase("template.dotx", office.of_type(plain, template), found, headings=under)
    yield DocumentCase("both.dotm", office.of_type(plain, both), found, headings=under)
    yield DocumentCase("strict.docx", office.strict(plain), found, headings=under)


def _special() -> bytes:
    """All that stands in a document beside its plain paragraphs, its words without blanks between the wrappers."""
    box = f"<w:txbxContent>{p(run('TEXTBOX pelican'))}</w:txbxContent>"
    inline = (
        f"{run('Inline: ')}<w:sdt><w:sdtContent>{run('INLINECONTROL badger')}</w:sdtContent></w:sdt>"
        f'<w:fldSimple w:instr="DOCPROPERTY x">{run("FIELD ocelot")}</w:fldSimple>'
        f'<w:smartTag w:uri="x" w:element="place">{run("SMARTTAG lemur")}</w:smartTag>'
        f'<w:hyperlink w:anchor="a">{run("HYPERLINK gecko")}</w:hyperlink>'
    )
    nested = _table((("NESTEDTABLE marmot",),))
    outer = f"<w:tbl><w:tblPr/><w:tblGrid/><w:tr><w:tc>{p(run('OUTERCELL'))}{nested}{p('')}</w:tc></w:tr></w:tbl>"
    cell = f"<w:sdt><w:sdtContent><w:tc>{p(run('CELLCONTROL ibis'))}</w:tc></w:sdtContent></w:sdt>"
    complex_field = (
        '<w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText>UNSEENTEXT</w:instrText></w:r>'
        f'<w:r><w:fldChar w:fldCharType="separate"/></w:r>{run("RESULT narwhal")}'
        '<w:r><w:fldChar w:fldCharType="end"/></w:r>'
    )
    references = "".join(f'<w:r><w:{kind}Reference w:id="2"/></w:r>' for kind in ("footnote", "endnote", "comment"))
    package = office.word(
        p(run("Before the special parts.")),
        f"<w:sdt><w:sdtContent>{p(run('BLOCKCONTROL walrus'))}</w:sdtContent></w:sdt>",
        p(f"<w:r><w:pict><v:shape><v:textbox>{box}</v:textbox></v:shape></w:pict></w:r>"),
        p(inline),
        outer,
        f"<w:tbl><w:tblPr/><w:tblGrid/><w:tr>{cell}<w:tc>{p('')}</w:tc></w:tr></w:tbl>",
        p(complex_field + references),
        header="HEADER toucan",
        footer="FOOTER hoopoe",
    )
    return office.with_notes(
        package,
        footnotes=f'<w:footnote w:id="2">{p(run("FOOTNOTE dugong"))}</w:footnote>',
        endnotes=f'<w:endnote w:id="2">{p(run("ENDNOTE manatee"))}</w:endnote>',
        comments=f'<w:comment w:id="2" w:author="Ann">{p(run("COMMENTED axolotl"))}</w:comment>',
    )


def _other_office() -> Iterator[DocumentCase]:
    yield DocumentCase(
        "deck.pptx", office.slides(), ("grouped badger 1", "Basic | 10 | 10", "spoken walrus 2", "Begins")
    )
    sheets: dict[str, list[list[object]]] = {
        "Prices": [["Plan", "Price"], ["Basic", 5], ["Pro", 9]],
        "Leave": [["Name", "Days"], ["Ann", 31]],
    }
    yield DocumentCase(
        "book.xlsx", office.workbook(sheets), ("Basic | 5", "Ann | 31"), headings={"Ann | 31": ("Leave",)}
    )
    body = '<text:h text:outline-level="1">Opening</text:h>'
    body += "<text:p>The<text:s/>pool opens at <text:span>seven</text:span>.</text:p>"
    yield DocumentCase("text.odt", office.open_document("text", body), ("The pool opens at seven",))
    text = '<table:table-cell office:value-type="string"><text:p>Ulm</text:p></table:table-cell>'
    number = (
        '<table:table-cell office:value-type="float" office:value="126000"><text:p>126000</text:p></table:table-cell>'
    )
    row = text + number
    sheet = f'<table:table table:name="Towns"><table:table-row>{row}</table:table-row></table:table>'
    yield DocumentCase("sheet.ods", office.open_document("spreadsheet", sheet), ("Ulm | 126000",))
    rtf = rb"{\rtf1\ansi\ansicpg1252 Die K\'fcndigungsfrist betr\'e4gt sechs Wochen.\par}"
    yield DocumentCase("letter.rtf", rtf, ("Kündigungsfrist beträgt sechs Wochen",))
    chapters = {"a": "<h1>One</h1><p>The fox jumps over the capybara.</p>", "b": "<p>Last chapter.</p>"}
    yield DocumentCase("novel.epub", office.epub(chapters, ["a", "b"]), ("jumps over the capybara", "Last chapter"))
    mail = EmailMessage()
    mail["Subject"], mail["From"] = "Schlüssel für den Keller", "Ann <ann@example.com>"
    mail.set_content("Der Schlüssel liegt beim Hausmeister.\n", charset="iso-8859-1")
    mail.add_attachment("Code;Tür\n8812;Keller\n".encode(), maintype="text", subtype="csv", filename="codes.csv")
    yield DocumentCase("mail.eml", mail.as_bytes(), ("liegt beim Hausmeister", "Schlüssel für den Keller", "8812"))
    yield DocumentCase(
        "pages.pdf", made.pdf(["First page about llamas.", "Second page, docu-\nmentation."]), ("llamas", "Second page")
    )


def _pages() -> Iterator[DocumentCase]:
    def page(name: str, text: str, *has: str, never: tuple[str, ...] = (), encoding: str = "utf-8") -> DocumentCase:
        return DocumentCase(name, text.encode(encoding), has, never)

    opened = (
        "<!DOCTYPE html><html><head><title>Opening hours</title><body><p>The library opens at nine on Tuesdays.</p>"
    )
    yield page("no_head_end.html", opened + "</body></html>", "opens at nine on Tuesdays")
    items = "".join(f"<li>Item {number}\n" for number in range(1200))
    yield page("unclosed_li.html", f"<html><body><ul>{items}</ul></body></html>", "Item 0", "Item 7", "Item 1199")
    yield page(
        "unclosed_h.html",
        "<html><body><h2>Refunds<p>Refunds take fourteen days.</p><p>Write to the office.</p></body></html>",
        "Refunds take fourteen days",
        "Write to the office",
    )
    cells = "<table><tr><td>Hamlet<td>1603<tr><td>Othello<td>1604</table><p>After the table<div>and a <b>div"
    yield page("unclosed_td.html", cells, "Hamlet | 1603", "Othello | 1604", "After the table", "and a div")
    yield page(
        "entities.html",
        "<html><body><p>Caf&eacute; &amp; Bar &euro;5 &nbsp;&copy; &#x1F600; &lt;b&gt; x&shy;y &AMP co</p>"
        "<script>var a='<p>SCRIPTTEXT</p>'</script><style>p{}</style><noscript>NOSCRIPT</noscript><!-- COMMENT -->"
        "<p hidden>HIDDENTEXT</p><p style='display:none'>DISPLAYNONE</p><template>TEMPLATE</template>"
        "<!-- a > b COMMENT --></body></html>",
        "Café & Bar €5",
        "& co",
        never=("SCRIPTTEXT", "COMMENT", "HIDDENTEXT", "DISPLAYNONE", "TEMPLATE"),
    )
    table = "<table><tr><th>City</th><th>Population</th></tr><tr><td>Springfield</td><td>30720</td></tr></table>"
    yield page("table.html", table, "Springfield | 30720")
    fee = '<html><head><meta charset="{}"></head><body><p>Die Gebühr beträgt fünf Euro für Schüler.</p></body></html>'
    yield page("latin1.html", fee.format("windows-1252"), "Gebühr beträgt fünf Euro", encoding="cp1252")
    yield page(
        "undeclared.html",
        fee.replace("Schüler", "Gäste").replace('<meta charset="{}">', ""),
        "Euro für Gäste",
        encoding="cp1252",
    )
    lied = fee.replace("Schüler", "Ärzte").format("utf-16")
    yield page("lied.html", lied, "Euro für Ärzte")
    old = "<html><head><meta http-equiv='Content-Type' content='text/html; charset=Shift_JIS'></head>"
    old += "<body>図書館は火曜日に開きます。"
    yield page("sjis.html", old, "図書館", encoding="cp932")
    xhtml = '<?xml version="1.0" encoding="ISO-8859-1"?><html xmlns="http://www.w3.org/1999/xhtml">'
    xhtml += "<body><p>Le café coûte trois euros.</p></body></html>"
    yield page("latin1.xhtml", xhtml, "café coûte trois euros", encoding="latin-1")


def _markdown() -> Iterator[DocumentCase]:
    text = "Employees get twenty five days of leave.\n\n# Sick leave\n\nA note is needed after three days.\n"
    found = ("twenty five days of leave",)
    none: Mapping[str, tuple[str, ...]] = {"twenty five days of leave": (), "A note is needed": ("Sick leave",)}
    front = "---\ntitle: Holiday rules\ndate: 2024-05-01\ntags: [hr, leave]\n---\n\n"
    said = {"title": "Holiday rules", "date": "2024-05-01"}
    yield DocumentCase("front.md", (front + text).encode(), found, ("tags:",), none, said)
    windows = "\ufeff" + (front + text.replace("three", "two")).replace("\n", "\r\n")
    yield DocumentCase("windows.md", windows.encode(), found, ("tags:",), none)
    toml = '+++\ntitle = "Rules"\ntags = ["hr"]\n+++\n' + text.replace("three", "four")
    yield DocumentCase("hugo.md", toml.encode(), found, ("tags =",), none)
    dots = "---\ntags: [x]\n...\n" + text.replace("three", "five")
    yield DocumentCase("dots.md", dots.encode(), found, ("tags:",), none)
    separated = (
        "# Alpha\n\nFirst\u2028line of alpha.\u2028Still alpha text.\u2029More alpha.\n\n# Beta\n\nText that belongs "
        "to beta about oranges.\n\n# Gamma\n\nText of gamma about plums.\n\nDelta\n=====\n\nText\x0bof delta\x85about "
        "quinces.\n\n```\n# no heading\n```\n\nAfter the code, medlars.\n"
    )
    under = {
        "belongs to beta about oranges": ("Beta",),
        "about plums": ("Gamma",),
        "quinces": ("Delta",),
        "medlars": ("Delta",),
    }
    yield DocumentCase("seps.md", separated.encode(), headings=under)
    yield DocumentCase(
        "table.md", b"# Prices\n\n| Plan | Price |\n|---|---|\n| Basic | 5 |\n| Pro | 9 |\n", ("Basic | 5",)
    )


def _tables() -> Iterator[DocumentCase]:
    def table(name: str, text: str, *has: str, never: tuple[str, ...] = (), encoding: str = "utf-8") -> DocumentCase:
        return DocumentCase(name, text.encode(encoding), has, never)

    yield table(
        "semicolon_quoted.csv", '"Name, Vorname";Alter\n"Meier, Anna";34\n"Schulz, Bernd";51\n', "Meier, Anna", "34"
    )
    yield table(
        "sep_excel.csv", "sep=;\nName;Betrag;Ort\nAnna;12,50;Bonn\nBernd;7,10;Ulm\n", "Betrag", "12,50", never=("sep=",)
    )
    yield table(
        "sep_bom.csv",
        "sep=\t\r\nName\tBetrag\r\nCarla\t13,75\r\n",
        "Carla",
        "13,75",
        never=("sep=",),
        encoding="utf-16",
    )
    yield table("utf16.csv", "Name\tOrt\nJürgen\tKöln\n", "Jürgen", "Köln", encoding="utf-16")
    yield table("cp1252.csv", "Name;Ort\nJörg;Fürth\nKäthe;Gießen\n", "Jörg", "Gießen", encoding="cp1252")
    yield table(
        "comma.csv", 'Title,Note\nAtlas,"first line\nsecond line, ""quoted"""\n', "first line second line", "Atlas"
    )
    yield table("pipes.csv", "Part|Price, net\nSeal kit|4\nGasket|5\n", "Seal kit", "Gasket")
    yield table("stray_quote.csv", 'Part;Size\nPipe;5" wide\n"Valve "x" old";7\nFlange;9\n', "Flange", "Pipe", "Valve")
    yield table("open_quote.csv", 'Part;Size\nBolt;"3\nWasher;4\n', "Bolt", "Washer")
    yield table("one_column.csv", "Species\nkingfisher\nnuthatch\n", "kingfisher", "nuthatch")
    yield table("preamble.csv", "Report of May\n\nName;Sum\nDora;77,12\nEmil;88,13\n", "Report of May", "Dora", "88,13")
    yield table("ragged.csv", "a;b\n1;2;EXTRAFIELD puffin\n3\n", "puffin")
    yield table("tabs.tsv", "Name\tSum\nFritz\t99,14\n", "Fritz", "99,14")


def _texts() -> Iterator[DocumentCase]:
    fee = "Die Gebühr beträgt fünf Euro – für Schüler “gratis”."
    yield DocumentCase("cp1252.txt", fee.encode("cp1252"), ("Gebühr beträgt fünf Euro",))
    yield DocumentCase("utf8bom.txt", "\ufeffThe fee is five euros.".encode(), ("fee is five euros",))
    yield DocumentCase("utf16.txt", "Der Beitrag ist vierzig Euro.".encode("utf-16"), ("Beitrag ist vierzig Euro",))
    yield DocumentCase("bare16.txt", "Der Beitrag ist fünfzig Euro.".encode("utf-16-le"), ("Beitrag ist fünfzig Euro",))
    yield DocumentCase("old_mac.txt", b"The deposit is sixty euros.\rIt is paid back.\r", ("deposit is sixty euros",))
    hyphens = "The ma\u00adchine needs an of\ufb01cial docu-\nmentation\u200b."
    yield DocumentCase(
        "hyphens.txt", hyphens.encode(), answers={"official documentation": "chine needs", "machine": "chine"}
    )
    german = "Die Bibliothek öffnet dienstags um neun Uhr. "
    german += "Die Mahngebühr beträgt zehn Cent am Tag. Ausweise gelten zwei Jahre."
    yield DocumentCase("de.txt", german.encode(), answers={"Wie hoch ist die Mahngebühr?": "zehn Cent"})
    french = "La bibliothèque ouvre le mardi à neuf heures. L'amende de retard est de dix centimes par jour."
    yield DocumentCase("fr.txt", french.encode(), answers={"Quelle est l'amende de retard ?": "dix centimes"})
    japanese = "図書館は火曜日の九時に開きます。延滞料は一日十円です。"
    yield DocumentCase("ja.txt", japanese.encode(), answers={"延滞料はいくらですか": "一日十円"})
    codes = (
        "Error E-4711 means that the pump is blocked. Error E-4712 means that the valve leaks. "
        "Part number XK9-221-B is the seal kit. The function readSensorValue returns -1 without power."
    )
    asked = {
        "What does error E-4712 mean?": "valve leaks",
        "What is XK9-221-B?": "seal kit",
        "readSensorValue": "returns -1",
    }
    yield DocumentCase("codes.txt", codes.encode(), answers=asked)


def _refused() -> Iterator[DocumentCase]:
    for name, content in {
        "empty.txt": b"",
        "blank.txt": b"  \n \n",
        "unseen.txt": "\u200b \u2060\n\u00a0".encode(),
        "bom.txt": b"\xef\xbb\xbf",
        "front_alone.md": b"---\ntitle: x\n---\n",
        "script_alone.html": b"<html><body><script>x</script></body></html>",
        "empty.docx": office.word(),
        "empty.csv": b"\n\n",
        "empty.xlsx": office.workbook({"Sheet": []}),
    }.items():
        yield DocumentCase(name, content, error=True)


def _table(rows: tuple[tuple[str, ...], ...]) -> str:
    written = "".join("<w:tr>" + "".join(f"<w:tc>{p(run(cell))}</w:tc>" for cell in row) + "</w:tr>" for row in rows)
    return f"<w:tbl><w:tblPr/><w:tblGrid/>{written}</w:tbl>"
