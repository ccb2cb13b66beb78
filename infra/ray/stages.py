"""Ingestion in three stages that may run in processes of their own: parse, embed, write.

There is no queue: what runs the stages repeats those that broke off. Each gives the same again, and the last commits a
document whole or not at all, so that a stage that is killed anywhere loses nothing and doubles nothing.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy import float32
from numpy.typing import NDArray

from apps.core.errors import NotFound
from apps.core.ports import Embedder
from apps.rag.file_ingestion import SAYS_OF_ITSELF, WINDOW, embedded, known, made
from apps.rag.parsing.sandbox import Sandbox
from apps.rag.parsing.sections import Chunk
from apps.rag.records import Document, file_name
from apps.rag.storage import Parts
from apps.rag.uploads import Spool


@dataclass(frozen=True, slots=True)
class Place:
    """Where documents go."""

    tenant: str
    collection: str


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """``document`` says of it what is known so far. ``is_there``: the collection has these bytes already."""

    document: Document
    chunks: Sequence[Chunk]
    is_there: bool = False


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """A document with its passages and their vectors; without any where it ``is_there``."""

    document: Document
    chunks: Sequence[Chunk]
    vectors: NDArray[float32]


class Reading:
    """The first stage. Its sandbox is a process, which `aclose` ends."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sandbox = Sandbox(parts.limits, parts.tokenizer)

    async def parse(self, place: Place, name: str, content: BinaryIO) -> ParsedFile:
        """Raises errors of the tree for a file that cannot be read."""
        label, chunks = file_name(name), list[Chunk]()

        def hear(event: dict[str, Any]) -> None:
            if "chunk" in event:
                chunks.append(Chunk.from_json(event["chunk"]))

        with tempfile.TemporaryDirectory(prefix="genai-") as folder:
            spool = Spool(Path(folder), self._parts.limits.file_bytes)
            spooled, digest, size = spool.write(label, content)
            same = await known(self._parts, place.tenant, place.collection, digest)
            if same is not None and same.kind not in SAYS_OF_ITSELF:
                return ParsedFile(replace(same, name=label, names=(label,), metadata={}), [], is_there=True)
            told = await self._sandbox.parse(spool.path(spooled), label, hear)
        read = {"kind": told["kind"], "pages": told["pages"], "metadata": told["metadata"]}
        document = Document(digest, label, (label,), bytes=size, passages=0, ingested=time.time(), **read)
        return ParsedFile(document, chunks, is_there=same is not None)

    async def aclose(self) -> None:
        await self._sandbox.aclose()


async def embed(embedder: Embedder, file: ParsedFile) -> EmbeddedFile:
    """The second stage: nothing is computed of what is there already."""
    chunks, vectors = list[Chunk](), [np.zeros((0, embedder.dimensions), np.float32)]
    for first in range(0, 0 if file.is_there else len(file.chunks), WINDOW):
        fit, found = await embedded(embedder, file.chunks[first : first + WINDOW])
        chunks += fit
        vectors.append(found)
    document = file.document if file.is_there else replace(file.document, passages=len(chunks))
    return EmbeddedFile(document, chunks, np.concatenate(vectors))


async def write(parts: Parts, place: Place, file: EmbeddedFile) -> int:
    """The last stage: one commit. Returns the document's passages.

    Raises NotFound where it was taken for one that is there, and has gone meanwhile.
    """

    async def work() -> int:
        table, document = await made(parts, place.tenant, place.collection), file.document
        if not file.chunks:
            same = await known(parts, place.tenant, place.collection, document.id)
            if same is None:
                raise NotFound("The document was deleted meanwhile", field="document")
            document = replace(same, name=document.name, names=document.names, metadata=document.metadata)
        await table.put(document, file.chunks, file.vectors)
        return document.passages

    return await parts.committing(place.tenant, place.collection, work)


async def tend(parts: Parts, place: Place) -> None:
    """Bring the collection's indices up to date."""

    async def work() -> None:
        await (await parts.database.writing(place.tenant, place.collection)).tend()

    await parts.committing(place.tenant, place.collection, work)
