from eval.local_quality import FACTS, has_one


def test_an_answer_is_right_with_a_word_of_its_own_in_any_case() -> None:
    assert has_one("It is eight.", ["8", "Eight"])
    assert not has_one("It is eighteen, or 18.", ["8", "eight"])


def test_each_question_has_wanted_words() -> None:
    lines = [line.split("\t") for line in FACTS.read_text().splitlines()]
    assert lines and all(question.endswith("?") and all(words.split("|")) for question, words in lines)
