"""The evaluation of retrieval measures what it says: known rankings, honest splits, and choices that can be checked."""

import pytest

from apps.rag.search import Ranking
from eval.rag_duel import Compared, compared
from eval.rag_measures import fused, quality, rank_of
from eval.rag_questions import Question, plain, question_set, split
from eval.rag_retrieval import Found
from eval.rag_tuning import best_fusion, best_threshold, by_fusion, refusals


def found(text: str, vector: list[str], words: list[str], cosine: float = 0.5, target: str = "right") -> Found:
    entries = {id: id for id in [*vector, *words]}
    return Found(Question(text, frozenset({target})), vector, words, entries, cosine)


def test_the_measures_of_a_known_ranking() -> None:
    measured = quality([1, 2, None, 11])
    assert measured.recall == 0.5
    assert measured.mrr == pytest.approx((1 + 1 / 2 + 1 / 11) / 4)
    assert measured.ndcg == pytest.approx((1 + 1 / 1.584962500721156) / 4)


def test_an_entry_counts_once_and_any_right_one_will_do() -> None:
    assert rank_of(frozenset({"c", "d"}), ["a", "a", "b", "d", "c"]) == 3
    assert rank_of(frozenset({"x"}), ["a"]) is None


def test_the_fusion_here_is_the_librarys_own() -> None:
    vector, text = ["a", "b", "c"], ["c", "d", "a"]
    ranking = Ranking(fusion=7, vector_weight=1, text_weight=0.4)
    rank = {id: (vector.index(id) if id in vector else None, text.index(id) if id in text else None) for id in "abcd"}
    own = sorted("abcd", key=lambda id: (-ranking.fused(*rank[id]), id))
    assert fused(vector, text, 7, 0.4) == own


def test_the_fusion_that_finds_most_is_chosen() -> None:
    noise = [f"n{i}" for i in range(10)]
    helped_by_words = [found(f"q{i}", [*noise, "right"], ["right"]) for i in range(3)]
    chosen = best_fusion([helped_by_words])
    assert by_fusion(helped_by_words, chosen).recall == 1


def test_the_threshold_lies_between_what_has_an_answer_and_what_has_none() -> None:
    answerable = [found(f"a{i}", [], [], cosine) for i, cosine in enumerate((0.5, 0.6, 0.7))]
    others = [found(f"o{i}", [], [], cosine) for i, cosine in enumerate((0.1, 0.2, 0.3))]
    threshold = best_threshold(answerable, others)
    at = refusals(answerable, others, threshold)
    assert (at.refused, at.let_through) == (0, 0)


def test_checkouts_are_compared_within_a_round() -> None:
    now = [[(10.0, 5.0), (12.0, 6.0)], [(30.0, 7.0), (30.0, 8.0)]]
    then = [[(22.0, 9.0), (22.0, 9.0)], [(60.0, 11.0), (60.0, 11.0)]]
    assert compared("text", now, then) == Compared("text", 21, 41, 10, 22, 0.5, 6.5, 10)


@pytest.mark.long
def test_the_questions_are_many_split_in_two_and_no_copies_of_a_passage() -> None:
    questions = question_set()
    assert len(questions.asked) > 150
    assert len(questions.summaries) > 250
    assert len(questions.unanswerable) == 60
    for one in (questions.asked, questions.summaries, questions.unanswerable):
        halves = split(one, "tuning"), split(one, "test")
        assert sum(map(len, halves)) == len(one)
        assert all(len(half) > len(one) / 3 for half in halves)
    everything = "\n".join(plain(entry.text) for entries in questions.files.values() for entry in entries)
    for question in [*questions.asked, *questions.summaries]:
        assert plain(question.text) not in everything


@pytest.mark.long
def test_every_question_has_an_answer_in_the_documents() -> None:
    questions = question_set()
    known = {entry.name for entries in questions.files.values() for entry in entries}
    assert all(question.targets & known for question in [*questions.asked, *questions.summaries])
