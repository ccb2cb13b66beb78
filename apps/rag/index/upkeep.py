"""What a table needs now and then: its indices, and small files made into large ones. The writers' lock is held."""

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lancedb.table import AsyncTable

TEXT_INDEX = "text_words"
DOCUMENT_INDEX = "document_ids"
VECTOR_INDEX = "vector_"
# below that, comparing with every vector is as fast, and misses nothing
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
    if TEXT_INDEX not in names:
        # ICU finds words in scripts that have no blanks, too; split, it also finds those in names like a.b_c
        await table.create_index("text", config=FTS(base_tokenizer="icu/split"), name=TEXT_INDEX)
    if DOCUMENT_INDEX not in names:
        await table.create_index("document", config=BTree(), name=DOCUMENT_INDEX)


async def tend(table: "AsyncTable") -> None:
    """Bring new rows into the indices, drop old versions, and build the vectors' index when it begins to pay."""
    await table.optimize(cleanup_older_than=KEPT)
    rows = await table.count_rows()
    built = [index.name for index in await table.list_indices() if index.name.startswith(VECTOR_INDEX)]
    if rows >= max([INDEXED_FROM, *(REBUILT_AT * int(name.removeprefix(VECTOR_INDEX)) for name in built)]):
        await _index_vectors(table, rows)
        for name in built:
            await table.drop_index(name)


async def _index_vectors(table: "AsyncTable", rows: int) -> None:
    from lancedb.index import IvfRq

    partitions = max(1, rows // ROWS_A_PARTITION)
    config = IvfRq(distance_type="cosine", num_partitions=partitions)
    await table.create_index("vector", config=config, name=f"{VECTOR_INDEX}{rows}", replace=False)
