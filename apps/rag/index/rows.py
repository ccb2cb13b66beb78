"""A passage as a row of a table, and back. A row holds all that is known of its document: one commit changes both."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apps.rag.index.columns import MARKED, cells, columns_of, fields, marked, type_letter
from apps.rag.normalization import indexed
from apps.rag.parsing.chunks import Chunk
from apps.rag.records import Document, MetadataValue, Passage

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy import float32
    from numpy.typing import NDArray

    Vectors = NDArray[float32] | Sequence[Sequence[float]]

MODEL = b"embedding_model"
DIMENSIONS = b"dimensions"
WORDS = "words"
PASSAGE = ["id", "document", "ordinal", "names", "page", "headings", "start", "end", "text", "metadata"]
DOCUMENT = ["document", "names", "kind", "bytes", "pages", "passages", "metadata", "ingested"]


def schema(model: str, dimensions: int, metadata_columns: Iterable[str] = (), *, words: bool = True) -> "pa.Schema":
    """``words`` is the text as it is searched for; tables of before have none until upkeep gives it to them."""
    import pyarrow as pa

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
    told = {MODEL: model.encode(), DIMENSIONS: str(dimensions).encode()}
    made = [pa.field(name, kind, metadata=marked() if name == MARKED else None) for name, kind in own.items()]
    return pa.schema([*made, *fields(metadata_columns)], metadata=told)


def table_of(document: Document, chunks: Sequence[Chunk], vectors: "Vectors", of: "pa.Schema") -> "pa.Table":
    import numpy
    import pyarrow as pa

    count = len(chunks)
    dimensions = of.field("vector").type.list_size
    flat = numpy.asarray(vectors, dtype=numpy.float32).reshape(count, dimensions)
    columns: dict[str, Any] = {
        "id": [f"{document.id}:{ordinal}" for ordinal in range(count)],
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


def renamed(rows: "pa.Table", names: Sequence[str], metadata: Mapping[str, Any] | None = None) -> "pa.Table":
    """The same passages of a document that is called otherwise."""
    import pyarrow as pa

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


def _metadata_columns(of: "pa.Schema", metadata: Mapping[str, MetadataValue], count: int) -> dict[str, Any]:
    values = cells(metadata)
    return {name: [values.get(name)] * count for name in columns_of(of).names}


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
        document=row["document"],
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
