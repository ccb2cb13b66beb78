"""What a table needs now and then: its indices, and small files made into large ones. The writers' lock is held."""

from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING

from apps.rag.index.columns import columns_of, complete_columns
from apps.rag.index.rows import WORDS
from apps.rag.normalization import indexed

if TYPE_CHECKING:
    from lancedb.table import AsyncTable

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


async def ensure_text_index(table: "AsyncTable") -> None:
    """Before the first rows come: a search in a table without it would fail."""
    from lancedb.index import FTS, BTree

    names = {index.name for index in await table.list_indices()}
    if not names & {TEXT_INDEX, WORDS_INDEX}:
        column, name = (WORDS, WORDS_INDEX) if WORDS in (await table.schema()).names else ("text", TEXT_INDEX)
        # ICU finds words in scripts that have no blanks, too; split, it also finds those in names like a.b_c
        await table.create_index(column, config=FTS(base_tokenizer="icu/split"), name=name)
    if DOCUMENT_INDEX not in names:
        await table.create_index("document", config=BTree(), name=DOCUMENT_INDEX)


async def tend(table: "AsyncTable") -> None:
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


async def _complete_words(table: "AsyncTable") -> None:
    """Give a table of before the text as it is searched for. Broken off anywhere, it goes on there."""
    import pyarrow as pa
    from lancedb.index import FTS

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


async def _index_fields(table: "AsyncTable", built: Collection[str]) -> None:
    """Of the metadata; what comes later, optimize() brings into them."""
    from lancedb.index import Bitmap, BTree

    for column in columns_of(await table.schema()).names:
        if FIELD_INDEX + column not in built:
            config = Bitmap() if column.startswith("b") else BTree()
            await table.create_index(column, config=config, name=FIELD_INDEX + column)


async def _index_vectors(table: "AsyncTable", rows: int) -> None:
    from lancedb.index import IvfRq

    partitions = max(1, rows // ROWS_A_PARTITION)
    config = IvfRq(distance_type="cosine", num_partitions=partitions)
    await table.create_index("vector", config=config, name=f"{VECTOR_INDEX}{rows}", replace=False)
