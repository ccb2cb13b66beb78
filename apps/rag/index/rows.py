"""A passage as a row of a table, and back. A row holds all that is known of its document: one commit changes both."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apps.rag.filters import metadata_document, read_metadata
from apps.rag.parsing.pieces import Piece
from apps.rag.records import Document, Passage

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy import float32
    from numpy.typing import NDArray

    Vectors = NDArray[float32] | Sequence[Sequence[float]]

MODEL = b"embedding_model"
DIMENSIONS = b"dimensions"
PASSAGE = ["id", "document", "ordinal", "names", "page", "headings", "start", "end", "text", "metadata"]
DOCUMENT = ["document", "names", "kind", "bytes", "pages", "passages", "metadata", "ingested"]


def schema(model: str, dimensions: int) -> "pa.Schema":
    import pyarrow as pa

    text = pa.utf8()
    fields = {
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
    told = {MODEL: model.encode(), DIMENSIONS: str(dimensions).encode()}
    return pa.schema([pa.field(name, kind) for name, kind in fields.items()], metadata=told)


def table_of(document: Document, pieces: Sequence[Piece], vectors: "Vectors", of: "pa.Schema") -> "pa.Table":
    import numpy
    import pyarrow as pa

    count = len(pieces)
    dimensions = of.field("vector").type.list_size
    flat = numpy.asarray(vectors, dtype=numpy.float32).reshape(count, dimensions)
    columns: dict[str, Any] = {
        "id": [f"{document.id}:{ordinal}" for ordinal in range(count)],
        "document": [document.id] * count,
        "ordinal": list(range(count)),
        "names": [list(document.names)] * count,
        "kind": [document.kind] * count,
        "page": [piece.page for piece in pieces],
        "headings": [list(piece.headings) for piece in pieces],
        "start": [piece.start for piece in pieces],
        "end": [piece.end for piece in pieces],
        "text": [piece.text for piece in pieces],
        "metadata": [written_metadata(document.metadata)] * count,
        "bytes": [document.bytes] * count,
        "pages": [document.pages] * count,
        "passages": [count] * count,
        "ingested": [document.ingested] * count,
    }
    arrays = [pa.array(values, of.field(name).type) for name, values in columns.items()]
    vector = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), dimensions)
    return pa.Table.from_arrays([*arrays, vector], schema=of)


def renamed(rows: "pa.Table", names: Sequence[str], metadata: Mapping[str, Any] | None = None) -> "pa.Table":
    """The same passages of a document that is called otherwise."""
    import pyarrow as pa

    changes: dict[str, Any] = {"names": [list(names)] * rows.num_rows}
    if metadata is not None:
        changes["metadata"] = [written_metadata(metadata)] * rows.num_rows
    for name, values in changes.items():
        field = rows.schema.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
    return rows


def written_metadata(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata_document(metadata), sort_keys=True)


def document_of(row: Mapping[str, Any]) -> Document:
    return Document(
        id=row["document"],
        name=row["names"][-1],
        names=tuple(row["names"]),
        kind=row["kind"],
        bytes=row["bytes"],
        pages=row["pages"],
        passages=row["passages"],
        metadata=read_metadata(json.loads(row["metadata"])),
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
        metadata=read_metadata(json.loads(row["metadata"])),
        score=score,
        vector_score=None,
        text_score=None,
        text_rank=None,
    )
