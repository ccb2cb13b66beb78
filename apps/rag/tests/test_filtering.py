"""Filters find exactly what their words say: by scan and by index, in a table of today and in one of before."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lancedb.table import AsyncTable

from apps.rag.index.database import Database
from apps.rag.index.filters import MOST_COLUMNS, compile_filter
from apps.rag.index.rows import columns_of
from apps.rag.index.table import PROBES, ROW_ID, matching, nearest
from apps.rag.index.writing import INDEXED_FROM, ROWS_A_PARTITION, ensure_text_index, put, remove, tend
from apps.rag.library import Library
from apps.rag.records import Document, Upload
from apps.rag.tests.brute_filter import Row, matches
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS, finished, texts
from apps.rag.tests.tables import DIMENSIONS, MODEL, chunks, document, old_table, vectors, written

pytestmark = pytest.mark.local

PASSAGES = 10
WORDS = ["red", "Red", "", "O'Brien", "2024", "ü", "2020-01-31", "z" * 300]
NUMBERS = [0, -0.0, 1, -1, 1.5, 2024, 2**53, -1e300, 1e-300, True]
FIELDS = ["team", "Team", "year", "draft", "mixed", "rare", "nobody_has_it"]
COUNT = 200


def metadata(random: random.Random, number: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if random.random() < 0.8:
        told["team"] = random.choice(WORDS)
    if random.random() < 0.5:
        told["Team"] = random.choice(WORDS)
    if random.random() < 0.8:
        told["year"] = random.choice([2000 + number % 25, 2000.5, 0, -0.0])
    if random.random() < 0.5:
        told["draft"] = random.choice([True, False])
    if random.random() < 0.7:
        told["mixed"] = random.choice([*WORDS, *NUMBERS, True, False])
    if number % 97 == 0:
        told["rare"] = number
    return {key: value for key, value in told.items() if not (isinstance(value, float) and abs(value) > 2**53)}


def some_filter(random: random.Random, depth: int = 0) -> dict[str, Any]:
    if depth < 3 and random.random() < 0.35:
        sign = random.choice(["$and", "$or", "$not"])
        if sign == "$not":
            return {"$not": some_filter(random, depth + 1)}
        return {sign: [some_filter(random, depth + 1) for _ in range(random.randint(1, 3))]}
    return dict(some_condition(random) for _ in range(random.choice([1, 1, 2])))


def some_condition(random: random.Random) -> tuple[str, Any]:
    values: list[Any] = [*WORDS, 0, -0.0, 1, 1.5, 2010, 2024.0, 2**53, True, False]
    own: dict[str, list[Any]] = {
        "name": ["7.txt", "8.txt", "none"],
        "document": [f"{7:064x}", "x"],
        "kind": ["text", "pdf"],
        "page": [1, 1.5, 3],
    }
    key = random.choice([*FIELDS, *FIELDS, *own])
    values = own.get(key, values)
    sign = random.choice(["", "$eq", "$ne", "$in", "$nin", "$exists", "$gt", "$gte", "$lt", "$lte"])
    if sign == "":
        return key, random.choice(values)
    if sign in ("$in", "$nin"):
        return key, {sign: random.choices(values, k=random.randint(0, 4))}
    if sign == "$exists":
        return key, {sign: random.choice([True, False])}
    if sign in ("$eq", "$ne") or key in ("name", "document", "kind"):
        return key, {"$ne" if sign == "$ne" else "$eq": random.choice(values)}
    return key, {sign: random.choice([value for value in values if not isinstance(value, bool)])}


def rows_of(documents: Sequence[Document]) -> dict[str, Row]:
    return {
        f"{one.id}:{ordinal}": Row(one.names, one.id, one.kind, chunk.page, one.metadata)
        for one in documents
        for ordinal, chunk in enumerate(chunks(int(one.id, 16), one.passages))
    }


async def found(table: AsyncTable, given: dict[str, Any]) -> set[str]:
    where = compile_filter(given, columns_of(await table.schema()))
    query = table.query().select(["id"])
    return {row["id"] for row in await (query if where is None else query.where(where)).to_list()}


async def ids_by_row(table: AsyncTable) -> dict[int, str]:
    found = await table.query().select(["id"]).with_row_id().to_arrow()
    return dict(zip(found.column(ROW_ID).to_pylist(), found.column("id").to_pylist(), strict=True))


async def assert_exact(table: AsyncTable, documents: Sequence[Document], seed: int, count: int = COUNT) -> None:
    rows, drawn, hits = rows_of(documents), random.Random(seed), 0
    for _ in range(count):
        given = some_filter(drawn)
        expected = {key for key, row in rows.items() if matches(row, given)}
        assert await found(table, given) == expected, given
        hits += 0 < len(expected) < len(rows)
    assert hits > count / 4, "filters that tell nothing apart prove nothing"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(str(tmp_path / "index"))
    yield made
    await made.aclose()


def some_documents(count: int, first: int = 0) -> list[Document]:
    drawn = random.Random(first + 1)
    return [document(number, metadata(drawn, number), PASSAGES) for number in range(first, first + count)]


async def new_table(database: Database) -> AsyncTable:
    table = (await database.making("ann", "docs", MODEL, DIMENSIONS)).table
    await ensure_text_index(table)
    return table


@pytest.mark.long
async def test_by_scan_and_through_every_change(database: Database) -> None:
    table, documents = await new_table(database), some_documents(40)
    for one in documents:
        parts = chunks(int(one.id, 16), one.passages)
        await put(table, one, parts, await vectors(parts))
    await assert_exact(table, documents, 1)
    # other metadata for the same bytes, a second name for them, a name that goes to other bytes, one that is gone
    renamed = replace(documents[3], metadata={"team": "red", "new_field": 7})
    await put(table, renamed, [], [])
    second = replace(documents[4], name="second.txt", names=("second.txt",), metadata=documents[4].metadata)
    await put(table, second, [], [])
    other = replace(documents[6], id=f"{99:064x}", metadata={"year": 2010, "team": "Red"})
    await put(table, other, chunks(99, PASSAGES), await vectors(chunks(99, PASSAGES)))
    await remove(table, documents[7].id)
    two_names = replace(documents[4], names=("4.txt", "second.txt"))
    documents = [*documents[:3], renamed, two_names, documents[5], other, *documents[8:]]
    await assert_exact(table, documents, 2)
    assert len(await found(table, {"new_field": {"$gte": 7}})) == PASSAGES
    assert len(await found(table, {"name": "second.txt"})) == PASSAGES
    assert await found(table, {"name": "7.txt"}) == set()


@pytest.mark.parametrize("layout", ["new", "before"])
@pytest.mark.long
async def test_by_index_with_rows_that_no_index_covers_yet(database: Database, layout: str) -> None:
    table = await (new_table(database) if layout == "new" else old_table(database, "ann", "docs"))
    documents = some_documents(INDEXED_FROM // PASSAGES + 10)
    await written(table, documents)
    await tend(table)
    assert {"field_n_year", "field_s_team", "field_b_draft"} <= {one.name for one in await table.list_indices()}
    await assert_exact(table, documents, 3, 80)
    late = some_documents(20, first=5000)
    await written(table, late)
    await remove(table, documents[5].id)
    changed = replace(documents[6], metadata={"team": "red", "late": True})
    await put(table, changed, [], [])
    documents = [*documents[:5], changed, *documents[7:], *late]
    await assert_exact(table, documents, 4, 80)
    await tend(table)
    await assert_exact(table, documents, 5, 80)


@pytest.mark.long
async def test_both_halves_give_what_the_filter_leaves_and_the_index_answers_it(database: Database) -> None:
    table, documents = await new_table(database), some_documents(INDEXED_FROM // PASSAGES)
    await written(table, documents)
    await tend(table)
    given = {"year": {"$gte": 2010}, "team": {"$ne": "red"}}
    where = compile_filter(given, columns_of(await table.schema()))
    assert where is not None and "json" not in where
    plan = await table.query().where(where).explain_plan()
    assert "ScalarIndexQuery" in plan and "@field_n_year" in plan and "@field_s_team" in plan
    rows = rows_of(documents)
    left = {key for key, row in rows.items() if matches(row, given)}
    [vector] = await HashingEmbedder().embed(["passage 3"])
    ids = await ids_by_row(table)
    everything = await matching(table, "passage 3", None, len(rows))
    filtered = await matching(table, "passage 3", where, len(rows))
    assert filtered == {row: score for row, score in everything.items() if ids[row] in left}
    near = await nearest(table, vector, where, len(rows))
    assert near and {ids[row] for row in near} <= left


@pytest.mark.long
async def test_what_a_narrow_filter_leaves_is_found_wherever_it_lies_in_the_vectors_index(database: Database) -> None:
    table = await new_table(database)
    rows = ROWS_A_PARTITION * 2 * PROBES
    await written(table, [document(number, {"number": number}, rows // 8) for number in range(8)])
    few = [document(number, {"number": number}, PASSAGES) for number in range(100, 110)]
    await written(table, few)
    await tend(table)
    [vector] = await HashingEmbedder().embed(["passage 77 of number 3"])
    ids = await ids_by_row(table)
    for one in few:
        where = compile_filter({"number": int(one.id, 16)}, columns_of(await table.schema()))
        assert {ids[row] for row in await nearest(table, vector, where, 50)} == set(rows_of([one]))


@pytest.mark.long
async def test_a_table_of_before_is_searched_as_it_is_and_then_given_columns(database: Database) -> None:
    table, documents = await old_table(database, "ann", "docs"), some_documents(40)
    await written(table, documents)
    assert not columns_of(await table.schema()).names
    await assert_exact(table, documents, 6)
    # a document comes before upkeep does: the columns that it needs hold what all the others have, too
    newest = document(41, {"team": "red", "year": 2011}, PASSAGES)
    await put(table, newest, chunks(41, PASSAGES), await vectors(chunks(41, PASSAGES)))
    assert columns_of(await table.schema()).names == ("s_team", "n_year")
    await assert_exact(table, [*documents, newest], 7)
    await tend(table)
    columns = columns_of(await table.schema())
    assert columns.complete and {"s1_team", "b_draft", "s_mixed", "n_mixed", "b_mixed"} <= set(columns.names)
    await assert_exact(table, [*documents, newest], 8)
    version = await table.version()
    assert "json" not in str(compile_filter({"nobody_has_it": 1}, columns))
    await tend(table)
    assert columns_of(await table.schema()) == columns and await table.version() >= version


async def test_a_folder_of_before_is_opened_searched_and_brought_up_to_date(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "index"))
    await written(await old_table(database, "ann", "docs"), some_documents(8))
    library = Library(tmp_path, HashingEmbedder(), limits=LIMITS)
    await library.search("ann", "docs", "passage", filter={"year": {"$exists": True}})
    assert not (await (await database.reading("ann", "docs")).columns()).marked, "a search writes nothing"
    await library.start()
    told: dict[str, Any] = {"filter": {"year": {"$gte": 0}}, "top_k": 100}
    first = sorted(await texts(library, "passage", **told))
    async with asyncio.timeout(90):
        while not (await (await database.reading("ann", "docs")).columns()).complete:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert 0 < len(first) < 80 and sorted(await texts(library, "passage", **told)) == first
    await finished(library, "ann", await library.submit("ann", "docs", [Upload("a.txt", b"a new one", {"Year": 1})]))
    assert await texts(library, "new", filter={"Year": {"$lt": 2}}) == ["a new one"]
    assert await texts(library, "new", filter={"year": {"$lt": 2}, "Year": 1}) == []
    await library.delete_document("ann", "docs", f"{3:064x}")
    assert len(await library.documents("ann", "docs")) == 8
    await library.aclose()
    await database.aclose()


async def test_more_fields_than_columns_are_filtered_all_the_same(database: Database) -> None:
    table = await new_table(database)
    documents = [document(number, {f"field_{number}_{n}": n for n in range(20)}) for number in range(6)]
    for one in documents:
        await put(table, one, chunks(int(one.id, 16), 1), await vectors(chunks(int(one.id, 16), 1)))
    columns = columns_of(await table.schema())
    assert len(columns.names) == MOST_COLUMNS and not columns.complete
    for number in range(6):
        expected = {f"{number:064x}:0"}
        assert await found(table, {f"field_{number}_19": 19}) == expected
        assert await found(table, {f"field_{number}_0": {"$lt": 1}, f"field_{number}_19": {"$gt": 18}}) == expected
        assert len(await found(table, {f"field_{number}_19": {"$ne": 19}})) == 5
    assert await found(table, {"nobody_has_it": {"$exists": True}}) == set()
