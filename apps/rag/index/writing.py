"""Commits to a table, and its upkeep: indices, and small files made into large ones. The writers' lock is held.

A document's passages come, go and are replaced in one commit each.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa
from lancedb.index import FTS, Bitmap, BTree, IvfRq
from lancedb.table import AsyncTable

from apps.rag.index.filters import literal
from apps.rag.index.rows import (
    DOCUMENT,
    WORDS,
    Vectors,
    columns_of,
    complete_columns,
    document_of,
    model_of,
    renamed,
    schema,
    table_of,
    widened,
)
from apps.rag.normalization import indexed
from apps.rag.parsing.sections import Chunk
from apps.rag.records import Document, no_document


async def heads(table: AsyncTable, where: str) -> list[Document]:
    """Documents by their first passage."""
    query = table.query().where(f"ordinal = 0 AND ({where})").select(DOCUMENT)
    return [document_of(row) for row in await query.to_list()]


async def put(table: AsyncTable, document: Document, chunks: Sequence[Chunk], vectors: Vectors) -> None:
    """The document is there under its (one) name, and nothing else is: all in one commit, and the same if repeated.

    A document that had the name before loses it, and goes where it has no other. Bytes that are there already keep
    their passages and gain a name.
    """
    name = document.name
    known = await heads(table, f"document = {literal(document.id)} OR array_has(names, {literal(name)})")
    before = next((found for found in known if found.id == document.id), None)
    others = [found for found in known if found.id != document.id]
    if before and not others and before.name == name and before.metadata == document.metadata:
        return
    columns = await widened(table, document.metadata)
    if before is None:
        # not the table's own: it shows JSON as the bytes that it is stored in
        model, dimensions = model_of(await table.schema())
        rows = table_of(document, chunks, vectors, schema(model, dimensions, columns.names, words=columns.words))
        if not others:
            await table.add(rows)
            return
    else:
        names = [*(known for known in before.names if known != name), name]
        rows = renamed(await _rows(table, before.id), names, document.metadata)
    await _replace(table, rows, others, name)


async def _replace(table: AsyncTable, rows: pa.Table, others: Sequence[Document], name: str) -> None:
    changed, gone = [rows], list[str]()
    for other in others:
        kept = [known for known in other.names if known != name]
        if kept:
            changed.append(renamed(await _rows(table, other.id), kept))
        else:
            gone.append(other.id)
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    if gone:
        listed = ", ".join(literal(document) for document in gone)
        merge = merge.when_not_matched_by_source_delete(f"document IN ({listed})")
    await merge.execute(pa.concat_tables(changed))


async def remove(table: AsyncTable, document: str) -> None:
    """Raises NotFound."""
    removed: Any = await table.delete(f"document = {literal(document)}")
    if removed.num_deleted_rows == 0:
        raise no_document()


async def remove_name(table: AsyncTable, document: str, name: str) -> None:
    """The document goes with its last name. Nothing changes where it does not have the name."""
    for known in await heads(table, f"document = {literal(document)} AND array_has(names, {literal(name)})"):
        kept = [other for other in known.names if other != name]
        if kept:
            rows = renamed(await _rows(table, document), kept)
            await table.merge_insert("id").when_matched_update_all().execute(rows)
        else:
            await remove(table, document)


async def _rows(table: AsyncTable, document: str) -> pa.Table:
    return await table.query().where(f"document = {literal(document)}").to_arrow()


TEXT_INDEX = "text_words"
"""Of the text as it is shown: what tables of before have."""
WORDS_INDEX = "normal_words"
"""Of the text as it is searched for. Built last: where it is, every passage is in it."""
ROWS_A_COMMIT = 2_000
DOCUMENT_INDEX = "document_ids"
VECTOR_INDEX = "vector_"
FIELD_INDEX = "field_"
# below that, looking at every row is as fast, and misses nothing
INDEXED_FROM = 5_000
ROWS_A_PARTITION = 1_000
# partitions are as many as the rows asked for when the index was built
REBUILT_AT = 4
# a search that began on an older version has long ended
KEPT = timedelta(minutes=10)


async def ensure_text_index(table: AsyncTable) -> None:
    """Before the first rows come: a search in a table without it would fail."""
    names = {index.name for index in await table.list_indices()}
    if not names & {TEXT_INDEX, WORDS_INDEX}:
        column, name = (WORDS, WORDS_INDEX) if WORDS in (await table.schema()).names else ("text", TEXT_INDEX)
        # ICU finds words in scripts that have no blanks, too; split, it also finds those in names like a.b_c
        await table.create_index(column, config=FTS(base_tokenizer="icu/split"), name=name)
    if DOCUMENT_INDEX not in names:
        await table.create_index("document", config=BTree(), name=DOCUMENT_INDEX)


async def tend(table: AsyncTable) -> None:
    """Bring new rows into the indices, drop old versions, and build further indices when they begin to pay."""
    await complete_columns(table)
    await _complete_words(table)
    await table.optimize(cleanup_older_than=KEPT)
    rows = await table.count_rows()
    names = {index.name for index in await table.list_indices()}
    if rows >= INDEXED_FROM:
        await _index_fields(table, names)
    built = [name for name in names if name.startswith(VECTOR_INDEX)]
    if rows >= max([INDEXED_FROM, *(REBUILT_AT * int(name.removeprefix(VECTOR_INDEX)) for name in built)]):
        await _index_vectors(table, rows)
        for name in built:
            await table.drop_index(name)


async def _complete_words(table: AsyncTable) -> None:
    """Give a table of before the text as it is searched for. Broken off anywhere, it goes on there."""
    if WORDS_INDEX in {index.name for index in await table.list_indices()}:
        return
    if WORDS not in (await table.schema()).names:
        await table.add_columns([pa.field(WORDS, pa.utf8())])
    while True:
        rows = await table.query().where(f"{WORDS} IS NULL").limit(ROWS_A_COMMIT).to_arrow()
        if not rows.num_rows:
            break
        words = pa.array([indexed(text) for text in rows.column("text").to_pylist()], pa.utf8())
        field = rows.schema.field(WORDS)
        rows = rows.set_column(rows.schema.get_field_index(WORDS), field, words)
        await table.merge_insert("id").when_matched_update_all().execute(rows)
    await table.create_index(WORDS, config=FTS(base_tokenizer="icu/split"), name=WORDS_INDEX)
    await table.drop_index(TEXT_INDEX)


async def _index_fields(table: AsyncTable, built: Collection[str]) -> None:
    """Of the metadata; what comes later, optimize() brings into them."""
    for column in columns_of(await table.schema()).names:
        if FIELD_INDEX + column not in built:
            config = Bitmap() if column.startswith("b") else BTree()
            await table.create_index(column, config=config, name=FIELD_INDEX + column)


async def _index_vectors(table: AsyncTable, rows: int) -> None:
    partitions = max(1, rows // ROWS_A_PARTITION)
    config = IvfRq(distance_type="cosine", num_partitions=partitions)
    await table.create_index("vector", config=config, name=f"{VECTOR_INDEX}{rows}", replace=False)
