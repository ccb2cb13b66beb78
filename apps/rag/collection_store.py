"""What is there: collections, documents, their passages; and taking them away."""

import asyncio
import re

from apps.core.errors import Conflict, InvalidValue, NotFound
from apps.rag.index.database import refuse_mix
from apps.rag.index.filters import literal
from apps.rag.records import DOCUMENT as DOCUMENT_ID
from apps.rag.records import Collection, Document, DocumentText, Passage, no_document
from apps.rag.storage import Parts

MOST = 1000
PASSAGE_ID = re.compile(r"[0-9a-f]{64}:\d{1,9}")


class CollectionStore:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def refuse_mix(self, tenant: str, collection: str) -> None:
        """Raises Conflict; a collection that is not there yet takes any model."""
        try:
            table = await self._parts.database.reading(tenant, collection)
        except NotFound:
            return
        await refuse_mix(table, self._parts.embedder.name, self._parts.embedder.dimensions)

    async def collections(self, tenant: str) -> list[Collection]:
        found: list[Collection] = []
        for name in await self._parts.database.collections(tenant):
            try:
                found.append(await self.collection(tenant, name))
            except NotFound:
                # deleted meanwhile
                continue
        return found

    async def collection(self, tenant: str, name: str) -> Collection:
        table = await self._parts.database.reading(tenant, name)
        return Collection(name, *await table.model(), *await table.counts())

    async def delete_collection(self, tenant: str, name: str) -> None:
        waiting = await self._cancel(tenant, name, Conflict("The collection was deleted", field="collection"))
        try:
            await self._parts.committing(tenant, name, lambda: self._parts.database.drop(tenant, name))
        except NotFound:
            if not waiting:
                raise

    async def documents(self, tenant: str, collection: str, limit: int, after: str) -> list[Document]:
        table = await self._parts.database.reading(tenant, collection)
        if after and not DOCUMENT_ID.fullmatch(after):
            raise InvalidValue("after is the id of a document", field="after")
        return await table.documents(after, _limited(limit))

    async def document(self, tenant: str, collection: str, document_id: str) -> Document:
        table = await self._parts.database.reading(tenant, collection)
        found = await table.heads(f"document = {literal(_document_id(document_id))}")
        if not found:
            raise no_document()
        return found[0]

    async def passages(self, tenant: str, collection: str, document_id: str, limit: int, after: int) -> list[Passage]:
        table = await self._parts.database.reading(tenant, collection)
        first, last = after + 1, after + _limited(limit)
        where = f"document = {literal(_document_id(document_id))}"
        found = await table.passages(f"{where} AND ordinal BETWEEN {int(first)} AND {int(last)}")
        if not found and not await table.heads(where):
            raise no_document()
        return found

    async def passage(self, tenant: str, collection: str, passage_id: str) -> Passage:
        table = await self._parts.database.reading(tenant, collection)
        if not isinstance(passage_id, str) or not PASSAGE_ID.fullmatch(passage_id):
            raise no_passage()
        found = await table.passages(f"id = {literal(passage_id)}")
        if not found:
            raise no_passage()
        return found[0]

    async def text(self, tenant: str, collection: str, document_id: str) -> DocumentText:
        """Put together from the passages: between two of them there was white space alone."""
        document = await self.document(tenant, collection, document_id)
        table = await self._parts.database.reading(tenant, collection)
        parts, length = list[str](), 0
        for start, text in await table.texts(document.id):
            gap = max(start - length, 0)
            new = text[max(length - start, 0) :]
            parts += ["\n" * gap, new]
            length += gap + len(new)
        return DocumentText(document, "".join(parts))

    async def remove_name(self, tenant: str, collection: str, document_id: str, name: str) -> None:
        """The document goes with its last name."""
        _document_id(document_id)

        async def work() -> None:
            table = await self._parts.database.writing(tenant, collection)
            await table.remove_name(document_id, name)

        await self._parts.committing(tenant, collection, work)

    async def delete_document(self, tenant: str, collection: str, document_id: str) -> None:
        _document_id(document_id)
        why = Conflict("The document was deleted", field="document")
        waiting = await self._cancel(tenant, collection, why, document_id)
        try:
            await self._parts.committing(tenant, collection, lambda: self._remove(tenant, collection, document_id))
        except NotFound:
            if not waiting:
                raise

    async def _remove(self, tenant: str, collection: str, document: str) -> None:
        await (await self._parts.database.writing(tenant, collection)).remove(document)

    async def _cancel(self, tenant: str, collection: str, why: Conflict, document: str | None = None) -> bool:
        spooled = await self._parts.jobs(lambda table: table.cancel(tenant, collection, why, document))
        await asyncio.to_thread(self._parts.spool.remove, *spooled)
        return bool(spooled)


def _document_id(given: str) -> str:
    if not isinstance(given, str) or not DOCUMENT_ID.fullmatch(given):
        raise no_document()
    return given


def no_passage() -> NotFound:
    return NotFound("No such passage", field="passage")


def _limited(limit: int) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
        raise InvalidValue(f"limit must be between 1 and {MOST}", field="limit", details={"min": 1, "max": MOST})
    return limit
