"""The stages of ingestion by themselves: each can be repeated, and a document that is there is not computed again."""

import io
from pathlib import Path

import pytest

from apps.core.errors import InvalidValue, NotFound
from apps.rag.library import Library
from apps.rag.storage import Parts, put_together
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS, names, texts
from infra.ray.stages import EmbeddedFile, Place, Reading, embed, tend, write

pytestmark = pytest.mark.local

PLACE = Place("ann", "docs")
TEXT = "\n\n".join(f"Paragraph {part}. " + "It says a few words more. " * 9 for part in range(4))


async def staged(parts: Parts, name: str, text: str) -> EmbeddedFile:
    reading = Reading(parts)
    try:
        return await embed(parts.embedder, await reading.parse(PLACE, name, io.BytesIO(text.encode())))
    finally:
        await reading.aclose()


async def test_stages_that_are_repeated_write_once(tmp_path: Path) -> None:
    embedder = HashingEmbedder()
    parts = put_together(tmp_path, "", embedder, None, LIMITS.for_embedder(embedder.longest))
    first, second = await staged(parts, "a.txt", TEXT), await staged(parts, "a.txt", TEXT)
    assert len(first.chunks) == len(first.vectors) > 3
    assert await write(parts, PLACE, first) == await write(parts, PLACE, second) == len(first.chunks)
    again = await staged(parts, "a.txt", TEXT)
    assert len(again.chunks) == 0, "what is there is not embedded again"
    assert await write(parts, PLACE, again) == len(first.chunks)
    # the same bytes by another name, and other bytes by the first one
    assert await write(parts, PLACE, await staged(parts, "b.txt", TEXT)) == len(first.chunks)
    await write(parts, PLACE, await staged(parts, "a.txt", "Something else entirely."))
    await write(parts, PLACE, await staged(parts, "c.md", "# Title\n\nA page of Markdown."))
    await write(parts, PLACE, await staged(parts, "c.md", "# Title\n\nA page of Markdown."))
    await tend(parts, PLACE)
    library = Library(tmp_path, embedder, limits=LIMITS)
    assert await names(library) == ["a.txt", "b.txt", "c.md"]
    assert await texts(library, "else entirely", top_k=1) == ["Something else entirely."]
    with pytest.raises(InvalidValue):
        await staged(parts, "empty.txt", "  \n ")
    kept = (await library.documents("ann", "docs"))[0]
    await library.delete_collection("ann", "docs")
    with pytest.raises(NotFound):
        await write(parts, PLACE, EmbeddedFile(kept, [], first.vectors[:0]))
    await library.aclose()
