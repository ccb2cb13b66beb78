"""Fusion and diversity, by hand."""

import pytest

from apps.rag.search import Ranking
from apps.rag.vectors import cosines, diverse

pytest.importorskip("numpy")


def test_fusion_adds_the_reciprocal_ranks_of_both_halves() -> None:
    ranking = Ranking(fusion=60, text_weight=1)
    assert ranking.fused(0, 2) == pytest.approx(1 / 61 + 1 / 63)
    assert ranking.fused(None, 0) == pytest.approx(1 / 61)
    assert Ranking(fusion=0, vector_weight=2, text_weight=0).fused(1, 0) == pytest.approx(1)
    # found by both in the middle beats found by one at the top
    assert ranking.fused(5, 5) > ranking.fused(0, None)


def test_of_what_the_embedding_does_not_know_its_order_says_nothing() -> None:
    assert Ranking().fused(0, None, known=0) == 0
    assert Ranking().fused(0, 3, known=0.5) < Ranking().fused(0, 3)


def test_cosines_do_not_depend_on_lengths() -> None:
    assert cosines([2, 0], [[1, 0], [0, 3], [-5, 0], [0, 0]]) == pytest.approx([1, 0, -1, 0])


def test_the_second_is_relevant_and_unlike_the_first() -> None:
    vectors = [[1.0, 0.0], [0.99, 0.1], [0.0, 1.0]]
    assert diverse([0.9, 0.8, 0.5], vectors, 3, weight=0.5) == [0, 2, 1]
    assert diverse([0.9, 0.8, 0.5], vectors, 3, weight=1) == [0, 1, 2]
    assert diverse([0.5, 0.5, 0.5], vectors, 2, weight=0) == [0, 2]
    assert diverse([], [], 5, weight=0.5) == []
