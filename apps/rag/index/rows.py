"""A passage as a row of a table, and back. A row holds all that is known of its document: one commit changes both.

Metadata in columns of its own: one for each field and type that a collection has met, so that a filter reads
numbers and strings, and an index of them, instead of every passage's JSON.

The JSON stays what is read back. Tables of before had it alone: until upkeep has given them their columns
(``complete_columns``), and for the fields of a collection that has too many, filters read the JSON as they did.
Imported with pyarrow and lancedb when a table is opened.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy
import pyarrow as pa
from lancedb.table import AsyncTable
from numpy.typing import NDArray

from apps.rag.index.filters import MOST_COLUMNS, READERS, Columns, column_of, type_letter
from apps.rag.normalization import indexed
from apps.rag.parsing.sections import Chunk
from apps.rag.records import Document, MetadataValue, Passage

# on this field of the table's schema is noted that no field of the metadata is without its column
MARKED = "document"
MARK = "metadata_columns"


def marked() -> dict[bytes, bytes]:
    return {MARK.encode(): b"1"}


def model_of(schema: pa.Schema) -> tuple[str, int]:
    """The embedding model that the collection was made with, and its dimensions."""
    noted = schema.metadata
    return noted[MODEL].decode(), int(noted[DIMENSIONS])


def columns_of(schema: pa.Schema) -> Columns:
    # the table's own fields have no underscore
    names = tuple(name for name in schema.names if "_" in name)
    noted = schema.field(MARKED).metadata or {}
    return Columns(names, marked=MARK.encode() in noted, words="words" in schema.names)


def fields(names: Iterable[str]) -> list[pa.Field]:
    kinds = {"s": pa.utf8(), "n": pa.float64(), "b": pa.bool_()}
    return [pa.field(name, kinds[name[0]]) for name in names]


def cells(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    """What a passage with this metadata has in its columns."""
    found: dict[str, MetadataValue] = {}
    for key, value in metadata.items():
        letter = type_letter(value)
        # with zero added, -0.0 is 0.0: an index tells them apart
        found[column_of(letter, key)] = float(value) + 0.0 if letter == "n" else value
    return found


async def widened(table: AsyncTable, metadata: Mapping[str, MetadataValue]) -> Columns:
    """The table's columns, with those that this metadata needs. The writers' lock is held.

    A commit of its own: a column that no passage has a value in yet changes no answer.
    """
    columns = columns_of(await table.schema())
    known = {column_of(type_letter(value), key): (type_letter(value), key) for key, value in metadata.items()}
    return await _add(table, columns, known)


async def complete_columns(table: AsyncTable) -> None:
    """Give a table of before its columns. Broken off anywhere, it is begun again. The writers' lock is held."""
    columns = columns_of(await table.schema())
    if columns.marked:
        return
    known: dict[str, tuple[str, str]] = {}
    heads = await table.query().where("ordinal = 0").select(["metadata"]).to_arrow()
    for written in set(heads.column("metadata").to_pylist()):
        for stored in json.loads(written):
            known[column_of(stored[0], stored[2:])] = (stored[0], stored[2:])
    await _add(table, columns, dict(sorted(known.items())))
    await table.update_field_metadata({"path": MARKED, "metadata": {MARK: "1"}})


async def _add(table: AsyncTable, columns: Columns, known: Mapping[str, tuple[str, str]]) -> Columns:
    """With the values that the passages of before have."""
    room = max(MOST_COLUMNS - len(columns.names), 0)
    missing = [name for name in known if name not in columns.names][:room]
    if not missing:
        return columns
    if columns.complete:
        await table.add_columns(fields(missing))
    else:
        await table.add_columns({name: _computed(*known[name]) for name in missing})
    return columns_of(await table.schema())


def _computed(letter: str, key: str) -> str:
    reading = f"{READERS[letter]}(metadata, '{letter}_{key}')"
    return f"{reading} + 0.0" if letter == "n" else reading


Vectors = NDArray[numpy.float32] | Sequence[Sequence[float]]
MODEL = b"embedding_model"
DIMENSIONS = b"dimensions"
WORDS = "words"
# each column more is read from files of its own pages: the document and the ordinal stand in the id
PASSAGE = ["id", "names", "page", "headings", "start", "end", "text", "metadata"]
DOCUMENT = ["document", "names", "kind", "bytes", "pages", "passages", "metadata", "ingested"]


def schema(model: str, dimensions: int, metadata_columns: Iterable[str] = (), *, words: bool = True) -> pa.Schema:
    """``words`` is the text as it is searched for; tables of before have none until upkeep gives it to them."""
    text = pa.utf8()
    own = {
        "id": text,
        "document": text,
        "ordinal": pa.int32(),
        "names": pa.list_(text),
        "kind": text,
        "page": pa.int32(),
        "headings": pa.list_(text),
        "start": pa.int32(),
        "end": pa.int32(),
        "text": text,
        "metadata": pa.json_(text),
        "bytes": pa.int64(),
        "pages": pa.int32(),
        "passages": pa.int32(),
        "ingested": pa.float64(),
        "vector": pa.list_(pa.float32(), dimensions),
    }
    if words:
        own[WORDS] = text
    noted = {MODEL: model.encode(), DIMENSIONS: str(dimensions).encode()}
    made = [pa.field(name, kind, metadata=marked() if name == MARKED else None) for name, kind in own.items()]
    return pa.schema([*made, *fields(metadata_columns)], metadata=noted)


def table_of(document: Document, chunks: Sequence[Chunk], vectors: Vectors, of: pa.Schema) -> pa.Table:
    count = len(chunks)
    dimensions = of.field("vector").type.list_size
    flat = numpy.asarray(vectors, dtype=numpy.float32).reshape(count, dimensions)
    columns: dict[str, Any] = {
        "id": [passage_id(document.id, ordinal) for ordinal in range(count)],
        "document": [document.id] * count,
        "ordinal": list(range(count)),
        "names": [list(document.names)] * count,
        "kind": [document.kind] * count,
        "page": [chunk.page for chunk in chunks],
        "headings": [list(chunk.headings) for chunk in chunks],
        "start": [chunk.start for chunk in chunks],
        "end": [chunk.end for chunk in chunks],
        "text": [chunk.text for chunk in chunks],
        "metadata": [written_metadata(document.metadata)] * count,
        "bytes": [document.bytes] * count,
        "pages": [document.pages] * count,
        "passages": [count] * count,
        "ingested": [document.ingested] * count,
    }
    if WORDS in of.names:
        columns[WORDS] = [indexed(chunk.text) for chunk in chunks]
    columns.update(_metadata_columns(of, document.metadata, count))
    arrays = {name: pa.array(values, of.field(name).type) for name, values in columns.items()}
    arrays["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), dimensions)
    return pa.Table.from_arrays([arrays[name] for name in of.names], schema=of)


def renamed(rows: pa.Table, names: Sequence[str], metadata: Mapping[str, Any] | None = None) -> pa.Table:
    """The same passages of a document that is called otherwise."""
    changes: dict[str, Any] = {"names": [list(names)] * rows.num_rows}
    if metadata is not None:
        changes["metadata"] = [written_metadata(metadata)] * rows.num_rows
        changes.update(_metadata_columns(rows.schema, metadata, rows.num_rows))
    for name, values in changes.items():
        field = rows.schema.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
    return rows


def written_metadata(metadata: Mapping[str, MetadataValue]) -> str:
    """The type is part of the key, so that a comparison in the JSON never meets another type."""
    return json.dumps({f"{type_letter(value)}_{key}": value for key, value in metadata.items()}, sort_keys=True)


def read_metadata(written: str) -> dict[str, MetadataValue]:
    return {key[2:]: value for key, value in json.loads(written).items()}


def _metadata_columns(of: pa.Schema, metadata: Mapping[str, MetadataValue], count: int) -> dict[str, Any]:
    values = cells(metadata)
    return {name: [values.get(name)] * count for name in columns_of(of).names}


def passage_id(document: str, ordinal: int) -> str:
    return f"{document}:{ordinal}"


def ordinal_of(passage: Passage) -> int:
    """Its number in its document, from 0."""
    return int(passage.id.rpartition(":")[2])


def document_of(row: Mapping[str, Any]) -> Document:
    return Document(
        id=row["document"],
        name=row["names"][-1],
        names=tuple(row["names"]),
        kind=row["kind"],
        bytes=row["bytes"],
        pages=row["pages"],
        passages=row["passages"],
        metadata=read_metadata(row["metadata"]),
        ingested=row["ingested"],
    )


def passage_of(row: Mapping[str, Any], score: float = 0.0) -> Passage:
    return Passage(
        id=row["id"],
        document=row["id"].rpartition(":")[0],
        name=row["names"][-1],
        page=row["page"],
        headings=tuple(row["headings"]),
        start=row["start"],
        end=row["end"],
        text=row["text"],
        metadata=read_metadata(row["metadata"]),
        score=score,
        vector_score=None,
        text_score=None,
        text_rank=None,
    )
