"""One file's way into the index: parsed in the sandbox, embedded while it is still being parsed, one commit.

Each chunk is embedded with its headings before it where they fit, and none over the embedder's longest text. Imported
with numpy when the first file comes.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import float32
from numpy.typing import NDArray

from apps.core.errors import NotFound
from apps.core.ports import Embedder
from apps.rag.index.database import refuse_mix
from apps.rag.index.filters import literal
from apps.rag.job_queue import Claim, LeaseLost
from apps.rag.normalization import normalized
from apps.rag.parsing.sandbox import Sandbox
from apps.rag.parsing.sections import Chunk
from apps.rag.records import Document, Kind, Metadata
from apps.rag.storage import Parts
from apps.rag.vectors import as_array

if TYPE_CHECKING:
    from apps.rag.index.table import CollectionWriter

LONGEST_HEADINGS = 120
"""Characters. The last headings say most."""


async def fitting(embedder: Embedder, chunks: Sequence[Chunk]) -> list[tuple[Chunk, str]]:
    """Each chunk with the text to embed; one that is too long by the embedder's count is halved until it fits."""
    found: list[tuple[Chunk, str]] = []
    waiting = list(chunks)
    while waiting:
        texts = [_with_headings(chunk) for chunk in waiting]
        counts = await embedder.count_tokens(texts)
        bare = [
            normalized(chunk.text) for chunk, count in zip(waiting, counts, strict=True) if count > embedder.longest
        ]
        shorter = iter(await embedder.count_tokens(bare) if bare else [])
        following: list[Chunk] = []
        for chunk, text, count in zip(waiting, texts, counts, strict=True):
            if count <= embedder.longest:
                found.append((chunk, text))
            elif next(shorter) <= embedder.longest:
                found.append((chunk, normalized(chunk.text)))
            else:
                following += _halves(chunk)
        waiting = following
    return sorted(found, key=lambda pair: pair[0].start)


def _with_headings(chunk: Chunk) -> str:
    path = " > ".join(chunk.headings)[-LONGEST_HEADINGS:]
    # a section often begins with its own heading
    shown = f"{path}\n{chunk.text}" if path and not chunk.text.lstrip("# ").startswith(path) else chunk.text
    return normalized(shown)


def _halves(chunk: Chunk) -> list[Chunk]:
    middle = len(chunk.text) // 2
    if middle == 0:
        return []
    cut = chunk.start + middle
    return [
        Chunk(chunk.text[:middle], chunk.start, cut, chunk.page, chunk.headings),
        Chunk(chunk.text[middle:], cut, chunk.end, chunk.page, chunk.headings),
    ]


async def embedded(embedder: Embedder, chunks: Sequence[Chunk]) -> tuple[list[Chunk], NDArray[float32]]:
    """The chunks as they fit, and their vectors."""
    pairs = await fitting(embedder, chunks)
    if not pairs:
        return [], np.zeros((0, embedder.dimensions), np.float32)
    return [chunk for chunk, _ in pairs], as_array(await embedder.embed([text for _, text in pairs]))


async def known(parts: Parts, tenant: str, collection: str, document: str) -> Document | None:
    """What the collection has of these bytes; None also where there is no such collection."""
    try:
        table = await parts.database.reading(tenant, collection)
    except NotFound:
        return None
    found = await table.heads(f"document = {literal(document)}")
    return found[0] if found else None


async def made(parts: Parts, tenant: str, collection: str) -> "CollectionWriter":
    """The collection's table, with its text index. The writers' lock is held. Raises Conflict for another model's."""
    embedder = parts.embedder
    table = await parts.database.making(tenant, collection, embedder.name, embedder.dimensions)
    await refuse_mix(table, embedder.name, embedder.dimensions)
    await table.ensure_text_index()
    return table


# chunks embedded in one call: enough for full batches, few enough for progress to be seen
WINDOW = 128
NOTE_SECONDS = 0.3
PARSED_PERCENT = 5.0
EMBEDDED_PERCENT = 95.0
SAYS_OF_ITSELF: frozenset[Kind] = frozenset({"markdown"})


class FileIngestion:
    """Used once."""

    def __init__(self, parts: Parts, claim: Claim, sandbox: Sandbox) -> None:
        self._parts = parts
        self._claim = claim
        self._sandbox = sandbox
        self._found: list[Chunk] = []
        self._news = asyncio.Event()
        self._pages = 0
        self._ready: list[Chunk] = []
        self._vectors: list[NDArray[float32]] = []
        self._noted = 0.0
        self._warnings: tuple[str, ...] = ()

    async def run(self) -> int:
        """How many rows it wrote. Raises errors of the tree, and LeaseLost."""
        rows = await self._known_already()
        if rows is None:
            parsed = await self._read()
            document = self._document(parsed["kind"], parsed["pages"], parsed["metadata"])
            self._warnings = tuple(parsed["warnings"])
            await self._parts.committing(self._claim.tenant, self._claim.collection, lambda: self._put(document))
            rows = document.passages
        await self._parts.uploads.remove(self._claim.spooled)
        return rows

    async def _known_already(self) -> int | None:
        """The same bytes are there: only their name or metadata may be new. None where they are not."""
        claim, parts = self._claim, self._parts
        document = await known(parts, claim.tenant, claim.collection, claim.document)
        # what a document says of itself is metadata too, and is read again with it
        if document is None or document.kind in SAYS_OF_ITSELF:
            return None
        return await parts.committing(claim.tenant, claim.collection, self._rename)

    async def _rename(self) -> int | None:
        claim, table = self._claim, await self._made()
        found = await table.heads(f"document = {literal(claim.document)}")
        if not found:
            return None
        await self._must_hold()
        [same] = found
        await table.put(replace(same, name=claim.name, names=(claim.name,), metadata=claim.metadata), [], [])
        await self._finish(same.pages, same.passages)
        return 0

    async def _read(self) -> dict[str, Any]:
        async with self._parts.uploads.opened(self._claim.spooled) as path:
            return await self._parsed(path)

    async def _parsed(self, path: Path) -> dict[str, Any]:
        parsing = asyncio.create_task(self._sandbox.parse(path, self._claim.name, self._on_event))
        parsing.add_done_callback(lambda _: self._news.set())
        try:
            while not parsing.done() or self._found:
                if not self._found:
                    await self._news.wait()
                    self._news.clear()
                    continue
                window, self._found = self._found[:WINDOW], self._found[WINDOW:]
                await self._embed(window, parsing.done())
            return await parsing
        finally:
            parsing.cancel()
            await asyncio.gather(parsing, return_exceptions=True)

    def _on_event(self, event: dict[str, Any]) -> None:
        if "page" in event:
            self._pages = event["page"]
        else:
            self._found.append(Chunk.from_json(event["chunk"]))
        self._news.set()

    async def _embed(self, window: list[Chunk], parsed: bool) -> None:
        chunks, vectors = await embedded(self._parts.embedder, window)
        self._vectors.append(vectors)
        self._ready += chunks
        if time.monotonic() - self._noted > NOTE_SECONDS:
            self._noted = time.monotonic()
            await self._note(parsed)

    async def _note(self, parsed: bool) -> None:
        done = len(self._ready)
        passages = done + len(self._found)
        share = done / passages if parsed and passages else 0
        percent = PARSED_PERCENT + (EMBEDDED_PERCENT - PARSED_PERCENT) * share
        claim, pages = self._claim, self._pages
        if not await self._parts.jobs.note(claim, pages, passages, done, percent):
            raise LeaseLost

    def _document(self, kind: Kind, pages: int, own: Metadata) -> Document:
        """``own`` is what the document says of itself; what was said of it with the upload comes first."""
        claim = self._claim
        return Document(
            id=claim.document,
            name=claim.name,
            names=(claim.name,),
            kind=kind,
            bytes=claim.bytes,
            pages=pages,
            passages=len(self._ready),
            metadata={**own, **claim.metadata},
            ingested=time.time(),
        )

    async def _put(self, document: Document) -> None:
        await self._must_hold()
        await (await self._made()).put(document, self._ready, np.concatenate(self._vectors))
        await self._finish(document.pages, document.passages)

    async def _made(self) -> "CollectionWriter":
        return await made(self._parts, self._claim.tenant, self._claim.collection)

    async def _must_hold(self) -> None:
        claim = self._claim
        if not await self._parts.jobs.holds(claim):
            raise LeaseLost

    async def _finish(self, pages: int, passages: int) -> None:
        claim = self._claim
        if not await self._parts.jobs.finish(claim, pages, passages, self._warnings):
            raise LeaseLost
