"""Retrieval on a real table: modes, filters that nothing can break out of, diversity, reranking."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.core.errors import InvalidType, InvalidValue
from apps.core.ports import Readiness, Reranked
from apps.rag.library import Library
from apps.rag.records import Upload
from apps.rag.search import EXACT, Ranking
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS, finished, ingested, texts

pytestmark = pytest.mark.local

NASTY = ["O'Brien", "' OR 1=1 --", 'say "hi"', "back\\slash", "münchen 北京 🦉", "%_", "'; DROP TABLE x; --", "a\nb"]


async def shelf(library: Library) -> None:
    uploads = [
        Upload("red.txt", b"the red team met in spring", {"team": "red", "year": 2020, "draft": True}),
        Upload("blue.txt", b"the blue team met in autumn", {"team": "blue", "year": 2024, "draft": False}),
        Upload("none.txt", b"no team met at all", {}),
        Upload("mixed.txt", b"the team of text years met", {"year": "2024"}),
    ]
    await finished(library, "ann", await library.submit("ann", "docs", uploads))


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"team": "red"}, "red"),
        ({"team": {"$ne": "red"}}, "blue mixed none"),
        ({"year": {"$gte": 2020, "$lt": 2024}}, "red"),
        ({"year": {"$gte": 2020}}, "blue red"),
        ({"year": "2024"}, "mixed"),
        ({"year": 2024}, "blue"),
        ({"draft": True}, "red"),
        ({"draft": 1}, ""),
        ({"team": {"$in": ["red", "blue"]}}, "blue red"),
        ({"team": {"$nin": ["red"]}, "year": {"$exists": True}}, "blue mixed"),
        ({"$or": [{"team": "red"}, {"year": "2024"}]}, "mixed red"),
        ({"$and": [{"team": "red"}, {"year": 2020}]}, "red"),
        ({"$not": {"team": {"$exists": True}}}, "mixed none"),
        ({"name": "none.txt"}, "none"),
        ({"name": {"$in": ["none.txt", "red.txt"]}}, "none red"),
        ({"kind": "text", "page": {"$exists": False}}, "blue mixed none red"),
        ({"unknown": 1}, ""),
        ({}, "blue mixed none red"),
    ],
)
@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
@pytest.mark.long
async def test_filters_in_every_mode(library: Library, filter: Any, expected: str, mode: Any) -> None:
    await shelf(library)
    found = await library.search("ann", "docs", "team met", filter=filter, mode=mode, top_k=10)
    assert " ".join(sorted(passage.name.removesuffix(".txt") for passage in found)) == expected


async def test_a_value_is_only_ever_a_value(library: Library) -> None:
    for number, value in enumerate(NASTY):
        await ingested(library, {f"{number}.txt": f"owner number {number}"}, metadata={"owner": value})
    for number, value in enumerate(NASTY):
        assert await texts(library, "owner", filter={"owner": value}) == [f"owner number {number}"]
    assert await texts(library, "owner", filter={"owner": "' OR '1'='1"}) == []


@pytest.mark.long
async def test_any_string_is_a_safe_filter_and_a_safe_query(tmp_path: Path) -> None:
    library = Library(tmp_path, HashingEmbedder(), limits=LIMITS)
    await library.start()
    await shelf(library)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40))
    def strings(text: str) -> None:
        found.append(text)

    found: list[str] = []
    strings()
    for text in found:
        assert await library.search("ann", "docs", "team", filter={"team": text}) == []
        assert await library.search("ann", "docs", "team", filter={"name": {"$in": [text]}}) == []
        if text.strip():
            assert len(await library.search("ann", "docs", text, top_k=10)) == 4
    await library.aclose()


@pytest.mark.parametrize(
    "filter",
    [
        [],
        {"a b": 1},
        {"team' OR 1=1 --": 1},
        {"team": None},
        {"team": {"$regex": "x"}},
        {"team": {}},
        {"team": {"$in": "red"}},
        {"team": {"$gte": True}},
        {"name": {"$gt": "a"}},
        {"page": "1"},
        {"$or": []},
        {"$where": "1"},
        {"year": float("nan")},
        {"team": "x\0"},
        {"team": {"$in": list(range(300))}},
        {"$not": {"$not": {"$not": {"$not": {"$not": {"$not": {"$not": {"$not": {"$not": {"a": 1}}}}}}}}}},
    ],
)
async def test_a_filter_that_is_not_one_is_a_clear_error(library: Library, filter: Any) -> None:
    with pytest.raises((InvalidValue, InvalidType)) as caught:
        await library.search("ann", "docs", "x", filter=filter)
    assert caught.value.field == "filter"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"text": " "}, "query"),
        ({"text": "\ud800"}, "query"),
        ({"text": "word " * 300}, "query"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 101}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"mode": "magic"}, "mode"),
        ({"mmr": 1.5}, "mmr"),
    ],
)
async def test_what_is_wrong_in_a_call_is_named(library: Library, options: Any, field: str) -> None:
    await ingested(library, {"a.txt": "a text"})
    with pytest.raises((InvalidValue, InvalidType)) as caught:
        await library.search("ann", "docs", options.pop("text", "a query"), **options)
    assert caught.value.field == field


async def test_a_passage_says_how_it_was_found(library: Library) -> None:
    await ingested(library, {"a.txt": "owls hunt mice", "b.txt": "bread is baked"})
    [best, other] = await library.search("ann", "docs", "owls hunt mice")
    assert best.name == "a.txt" and best.text_rank == 1 and best.text_score is not None
    assert best.vector_score == pytest.approx(1, abs=1e-5)
    assert best.score == pytest.approx(EXACT + Ranking().fused(0, 0))
    assert other.text_rank is None and other.text_score is None
    assert other.score == pytest.approx(Ranking().fused(1, None))
    [near, _] = await library.search("ann", "docs", "owls hunt mice", mode="vector")
    assert near.score == near.vector_score and near.text_rank is None
    [said] = await library.search("ann", "docs", "OWLS", mode="text")
    assert said.vector_score is None and said.score == said.text_score


async def test_diversity_passes_over_what_says_the_same(library: Library) -> None:
    same = {f"{n}.txt": f"owls hunt mice at night {n}" for n in range(4)}
    await ingested(library, {**same, "other.txt": "owls sleep by day"})
    plain = await library.search("ann", "docs", "owls hunt mice at night", top_k=2, mode="vector")
    assert {passage.name for passage in plain} <= set(same)
    varied = await library.search("ann", "docs", "owls hunt mice at night", top_k=2, mode="vector", mmr=0.3)
    assert varied[0].name in same and varied[1].name == "other.txt"
    relevant = await library.search("ann", "docs", "owls hunt mice at night", top_k=2, mode="vector", mmr=1)
    assert relevant == plain


async def test_of_passages_as_good_as_each_other_the_first_by_id_come_first(library: Library) -> None:
    """Their rows say nothing: they change places when files are merged."""
    uploads = [Upload(f"{number}.txt", b"the same words of everyone" + b"\n" * number) for number in range(8)]
    await finished(library, "ann", await library.submit("ann", "docs", uploads))
    known = sorted(document.id for document in await library.documents("ann", "docs"))
    assert len(known) == 8
    for top_k in (1, 3, 8):
        for mmr in (None, 1.0):
            found = await library.search("ann", "docs", "same words", top_k=top_k, mode="text", mmr=mmr)
            assert [passage.document for passage in found] == known[:top_k]
            assert len({passage.score for passage in found}) == 1


async def test_a_reranker_has_the_last_word(tmp_path: Path) -> None:
    class Shortest:
        name = "shortest"

        async def rerank(self, query: str, texts: Sequence[str]) -> Reranked:
            return Reranked(self.name, [-float(len(text)) for text in texts])

        def readiness(self) -> Readiness:
            return Readiness(self.name, "ready", "always")

        async def aclose(self) -> None:
            """Nothing to end."""

    library = Library(tmp_path, HashingEmbedder(), limits=LIMITS, reranker=Shortest())
    await library.start()
    await ingested(library, {"a.txt": "owls hunt mice at night", "b.txt": "owls"})
    found = await library.search("ann", "docs", "owls hunt mice")
    assert [(passage.name, passage.score) for passage in found] == [("b.txt", -4), ("a.txt", -23)]
    await library.aclose()


async def test_a_passage_with_the_whole_query_in_it_comes_first(library: Library) -> None:
    """Words and meaning alike are in all of them, and more so in the short ones."""
    await ingested(library, {f"{n}.txt": f"item {n + 1}. item {n + 2}." for n in range(8)})
    await ingested(
        library, {"whole.txt": "Here is a list of them. item 0, and many other things that are not asked for."}
    )
    [best] = await library.search("ann", "docs", "Item 0", top_k=1)
    assert best.name == "whole.txt" and best.score > EXACT
