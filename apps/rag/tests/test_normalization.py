"""Text as it is searched for: one form of each character, and words that a line end divides."""

import unicodedata
from pathlib import Path

import pytest

from apps.rag.index.database import Database
from apps.rag.index.writing import TEXT_INDEX, WORDS_INDEX
from apps.rag.library import Library
from apps.rag.normalization import HYPHENS, UNSEEN, holds_phrase, indexed, normalized, visible, which_hold_phrase
from apps.rag.records import Passage
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS, ingested
from apps.rag.tests.tables import document, old_table, written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("of\ufb01ce \ufb02ag", "office flag"),
        ("Ge\u00adbühr soft\u200bware \u2060x\ufeff", "Gebühr software x"),
        ("\uff26\uff55\uff4c\uff4c \u2460 \U0001d41a", "Full 1 a"),
        ("u\u0308ber", "\u00fcber"),
        ("non\u2011stop \u2212 4", "non-stop - 4"),
        ("docu-\nmentation", "documentation"),
        ("docu\u00ad\nmentation", "documentation"),
        ("Anna-\n  Maria", "Anna-Maria"),
        ("E-\n4712 and XK9-221-\nB", "E-4712 and XK9-221-B"),
        ("a list -\nof words", "a list -\nof words"),
    ],
)
def test_what_is_searched_for_has_one_form(text: str, expected: str) -> None:
    assert normalized(text) == expected


def test_a_word_divided_at_its_own_hyphen_is_indexed_both_ways() -> None:
    assert indexed("a well-\nknown fact") == "a wellknown fact well-known"


def test_both_parts_of_a_word_with_a_capital_inside_are_indexed() -> None:
    assert indexed("badgerFIELD of readSensorValue, GmbH") == (
        "badgerFIELD of readSensorValue, GmbH badger FIELD read Sensor Value Gmb H"
    )


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("- Item 0\n- Item 10", "item 0", True),
        ("- Item 10\n- Item 11", "Item 1", False),
        ("the of\ufb01ce\nhours", "Office  hours", True),
        ("CONTROL badgerFIELD", "control badger", True),
        ("CONTROL badgers", "control badger", False),
        ("\u56f3\u66f8\u9928\u306f\u706b\u66dc\u65e5", "\u56f3\u66f8\u9928", True),
        ("costs 12,50 (net)", "12,50", True),
        ("anything", "  ", False),
    ],
)
def test_a_phrase_is_held_as_whole_words(text: str, phrase: str, expected: bool) -> None:
    assert holds_phrase(text, phrase) is expected


def test_characters_that_are_not_seen_are_no_text() -> None:
    assert not visible("\u200b \u2060\n\u00a0")
    assert visible("\u200bx")


DIVIDED = "The of\ufb01ce needs a docu-\nmentation of the So\u00adft\u200bware."


async def found(library: Library, query: str) -> list[Passage]:
    return await library.search("ann", "docs", query, mode="text")


@pytest.mark.local
async def test_question_and_index_meet_and_the_passage_keeps_the_documents_own_text(library: Library) -> None:
    await ingested(library, {"a.txt": "Before. " * 3 + "\n\n" + DIVIDED})
    for query in ("office", "documentation", "software", "\uff2f\uff46\ufb01ce", "docu\u00admentation"):
        [passage] = await found(library, query)
        assert DIVIDED in passage.text
        whole = await library.text("ann", "docs", passage.document)
        assert whole.text[passage.start : passage.end] == passage.text


@pytest.mark.local
async def test_a_table_of_before_is_searched_as_it_is_and_then_given_its_words(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "index"))
    table = await old_table(database, "ann", "docs")
    await written(table, [document(number, {}) for number in range(3)])
    library = Library(tmp_path, HashingEmbedder(), limits=LIMITS)
    assert len(await found(library, "number")) == 3
    for _ in range(2):
        await (await database.writing("ann", "docs")).tend()
    names = {index.name for index in await (await database.reading("ann", "docs")).table.list_indices()}
    assert WORDS_INDEX in names and TEXT_INDEX not in names
    view = await database.reading("ann", "docs")
    rows = await view.table.query().select(["text", "words"]).to_list()
    assert len(rows) == 3 and all(row["words"] == indexed(row["text"]) for row in rows)
    assert len(await found(library, "\uff4e\uff55\uff4d\uff42\uff45\uff52")) == 3
    await library.aclose()
    await database.aclose()


def test_ascii_is_its_own_normal_form_so_that_it_needs_no_work() -> None:
    text = "".join(map(chr, range(128)))
    assert unicodedata.normalize("NFKC", text) == text
    assert not UNSEEN.search(text) and text.translate(HYPHENS) == text
    assert normalized(text) == text and indexed(text) == text


@pytest.mark.parametrize("texts", [["a Bc", "abc", "xabc", "ABC-d", "ab\u00adc"], ["\u212a abc", "Abc."]])
def test_phrases_are_found_in_many_texts_as_in_each(texts: list[str]) -> None:
    assert which_hold_phrase(texts, "abc") == [holds_phrase(text, "abc") for text in texts]
    assert which_hold_phrase(texts, " ") == [False] * len(texts)
