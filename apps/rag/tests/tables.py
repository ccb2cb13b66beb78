"""Tables for tests of the index itself, also as they were made before metadata had columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.table import AsyncTable

from apps.rag.index.database import Database
from apps.rag.index.rows import WORDS, columns_of, schema, table_of, widened
from apps.rag.index.writing import ensure_text_index
from apps.rag.parsing.sections import Chunk
from apps.rag.records import Document
from apps.rag.tests.hashing_embedder import HashingEmbedder

MODEL = "hashing"
DIMENSIONS = 64


def document(number: int, metadata: Mapping[str, Any], passages: int = 1) -> Document:
    name = f"{number}.txt"
    return Document(f"{number:064x}", name, (name,), "text", 1, 2, passages, metadata, 0.0)


def chunks(number: int, passages: int) -> list[Chunk]:
    """On the pages 1 to 3, and on none."""
    pages = [1, 2, 3, None]
    texts = [f"passage {ordinal} of number {number}" for ordinal in range(passages)]
    return [Chunk(text, 0, len(text), pages[ordinal % 4], ()) for ordinal, text in enumerate(texts)]


async def vectors(parts: Sequence[Chunk]) -> Any:
    return np.asarray(await HashingEmbedder().embed([chunk.text for chunk in parts]), dtype="float32")


async def written(table: AsyncTable, documents: Sequence[Document]) -> None:
    """In one commit, into the columns that the table has."""
    old = not columns_of(await table.schema()).marked
    names = () if old else [(await widened(table, one.metadata)).names for one in documents][-1]
    of = before(schema(MODEL, DIMENSIONS)) if old else schema(MODEL, DIMENSIONS, names)
    rows = []
    for one in documents:
        parts = chunks(int(one.id, 16), one.passages)
        rows.append(table_of(one, parts, await vectors(parts), of))
    await table.add(pa.concat_tables(rows))


async def old_table(database: Database, tenant: str, collection: str) -> AsyncTable:
    """Empty, in the layout of before."""
    connection = (await database.tenant(tenant, writing=True)).connection
    table = await connection.create_table(f"c-{collection}", schema=before(schema(MODEL, DIMENSIONS)))
    await ensure_text_index(table)
    return table


def before(of: pa.Schema) -> pa.Schema:
    return pa.schema([field.remove_metadata() for field in of if field.name != WORDS], metadata=of.metadata)
