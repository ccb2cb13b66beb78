"""The sentence that supports an answer, by its span in the document's text."""

from apps.rag.records import Passage
from apps.rag.relevance import Support, quotable, sentences, supports
from apps.rag.tests.hashing_embedder import HashingEmbedder


def passage(text: str, start: int = 100) -> Passage:
    return Passage("p:0", "d", "a.md", 1, (), start, start + len(text), text, {}, 0.1, 0.9, None, None)


def test_sentences_end_at_marks_and_lines_and_have_their_spans() -> None:
    text = "# A heading\n\nVersion 4.18 is out now. Is it good?  Yes, it is good!\n"
    text += "本の貸出期間は二週間です。十冊まで借りられます。"
    found = sentences(text)
    assert [one.text for one in found] == [
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
    [found, none] = await supports(HashingEmbedder(), "Everybody has thirty days of leave [1].", [first, second])
    assert found is not None and none is None
    assert first.text[found.start - first.start : found.end - first.start] == "Everybody has thirty days of leave."


async def test_a_sentence_speaks_of_the_passages_that_it_names() -> None:
    same = "Everybody has thirty days of leave."
    [none, found] = await supports(HashingEmbedder(), f"{same[:-1]} [2].", [passage(same), passage(same, 900)])
    assert none is None and found is not None and found.span == (900, 900 + len(same))


async def test_an_answer_without_words_is_supported_by_nothing() -> None:
    assert await supports(HashingEmbedder(), "...", [passage("Everybody has leave.")]) == [None]


async def test_a_sentence_with_the_code_that_is_asked_for_is_surer_than_a_liker_one() -> None:
    codes = passage("Error E-4711 means the pump. The valve leaks where E-4712 is shown.", 0)
    [found] = await supports(HashingEmbedder(), "What does error E-4712 means the pump?", [codes])
    assert found is not None and codes.text[found.start : found.end] == "The valve leaks where E-4712 is shown."


def test_what_is_much_less_like_the_question_than_the_best_is_not_quoted() -> None:
    def like(*likeness: float | None) -> list[Support | None]:
        return [None if one is None else Support(0, 1, one) for one in likeness]

    assert quotable(like(0.75, 0.59, 0.49), 2) == [0]
    assert quotable(like(0.55, None, 0.59), 2) == [0, 2]
    assert quotable(like(0.55, 0.6, 0.59), 2) == [1, 2]
    assert quotable(like(None, None), 2) == []
