"""The sentence that supports an answer, by its span in the document's text."""

from apps.rag.records import Passage
from apps.rag.support import sentences, supports
from apps.rag.tests.hashing_embedder import HashingEmbedder


def passage(text: str, start: int = 100) -> Passage:
    return Passage("p:0", "d", "a.md", 1, (), start, start + len(text), text, {}, 0.1, 0.9, None, None)


def test_sentences_end_at_marks_and_lines_and_have_their_spans() -> None:
    text = "# A heading\n\nVersion 4.18 is out now. Is it good?  Yes, it is good!\n"
    text += "本の貸出期間は二週間です。十冊まで借りられます。"
    found = sentences(text)
    assert [one.text for one in found] == [
        "# A heading",
        "Version 4.18 is out now.",
        "Is it good?",
        "Yes, it is good!",
        "本の貸出期間は二週間です。",
        "十冊まで借りられます。",
    ]
    assert all(text[one.start : one.end] == one.text for one in found)


async def test_the_likest_sentence_supports_and_its_span_is_of_the_document() -> None:
    first = passage("Trains are booked by the office. Everybody has thirty days of leave. Cats purr at night.")
    second = passage("Nothing here says a thing about it.", 500)
    [span, none] = await supports(HashingEmbedder(), "Everybody has thirty days of leave [1].", [first, second])
    assert span is not None and none is None
    assert first.text[span[0] - first.start : span[1] - first.start] == "Everybody has thirty days of leave."


async def test_a_sentence_speaks_of_the_passages_that_it_names() -> None:
    same = "Everybody has thirty days of leave."
    spans = await supports(HashingEmbedder(), f"{same[:-1]} [2].", [passage(same), passage(same, 900)])
    assert spans == [None, (900, 900 + len(same))]


async def test_an_answer_without_words_is_supported_by_nothing() -> None:
    assert await supports(HashingEmbedder(), "...", [passage("Everybody has leave.")]) == [None]
