"""Whether a passage says anything about a question: codes and rare words, unknown scripts, and the words that join."""

import pytest

from apps.rag.relevance import CALIBRATED, RELEVANT, Evidence, QuestionTerms, Term, is_code, terms_of

CODES = "Error E-4711 means that the pump is blocked. Part number XK9-221-B is the seal kit."


def relevant(question: str, passage: str, cosine: float, unknown: float = 0.0) -> bool:
    return CALIBRATED(QuestionTerms(question).evidence(passage, cosine, unknown)) >= RELEVANT


@pytest.mark.parametrize("question", ["What does error E-4711 mean?", "XK9-221-B", "was ist xk9-221-b?", "E\u20114711"])
def test_a_passage_with_the_questions_code_is_relevant_whatever_the_cosine(question: str) -> None:
    assert relevant(question, CODES, cosine=-0.2)


@pytest.mark.parametrize("question", ["What does error E-9981 mean?", "What is ZT4-870-C?", "E-471", "XK9-221"])
def test_another_code_is_not_relevant_because_it_looks_alike(question: str) -> None:
    assert not relevant(question, CODES, cosine=0.5)


def test_a_rare_word_and_its_inflections_count_and_words_that_join_do_not() -> None:
    german = "Die Mahngebühr beträgt zehn Cent am Tag."
    assert relevant("Wie hoch ist die Mahngebühr?", german, cosine=0.1)
    assert relevant("Wie hoch sind die Mahngebühren?", german, cosine=0.1)
    assert not relevant("Wie hoch ist der Eiffelturm am Tag?", german, cosine=0.1)


def test_of_a_script_that_the_embedding_does_not_know_words_alone_count() -> None:
    japanese = "本の貸出期間は二週間で、一人十冊まで借りられます。"
    assert relevant("本の貸出期間はどのくらいですか。", japanese, cosine=0.9, unknown=1.0)
    assert not relevant("富士山の高さは何メートルですか。", japanese, cosine=0.9, unknown=1.0)


def test_a_search_of_words_alone_has_no_cosine() -> None:
    evidence = QuestionTerms("valve leaks").evidence("the valve leaks", None, 0.0)
    assert (evidence.cosine, evidence.unknown, evidence.coverage) == (0.0, 1.0, 1.0)


def test_a_question_without_a_word_of_its_own_is_left_to_the_cosine() -> None:
    assert QuestionTerms("What is it?").evidence("anything", 0.2, 0.0) == Evidence(0.2, 0.0, 0.0, 0.0, 0.0)


def test_terms_are_codes_stems_and_pairs_of_characters() -> None:
    assert terms_of("What does E-4712 say of valves?") == (Term("e-4712", code=True), Term("say"), Term("valve"))
    assert Term("図書") in terms_of("図書館は")


@pytest.mark.parametrize(
    ("token", "code"),
    [("e-4712", True), ("4.18.2", False), ("88413", True), ("2024", False), ("well-known", False), ("b-204", True)],
)
def test_a_code_has_letters_and_digits_or_many_digits(token: str, code: bool) -> None:
    assert is_code(token) is code
