"""Commits: a document's passages come, go and are replaced in one commit each. The caller holds the writers' lock."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apps.core.errors import NotFound
from apps.rag.index.clauses import literal
from apps.rag.index.columns import widened
from apps.rag.index.database import model_of
from apps.rag.index.rows import DOCUMENT, document_of, renamed, schema, table_of
from apps.rag.parsing.chunks import Chunk
from apps.rag.records import Document

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import AsyncTable

    from apps.rag.index.rows import Vectors


async def heads(table: "AsyncTable", where: str) -> list[Document]:
    """Documents by their first passage."""
    query = table.query().where(f"ordinal = 0 AND ({where})").select(DOCUMENT)
    return [document_of(row) for row in await query.to_list()]


async def put(table: "AsyncTable", document: Document, chunks: Sequence[Chunk], vectors: "Vectors") -> None:
    """The document is there under its (one) name, and nothing else is: all in one commit, and the same if repeated.

    A document that had the name before loses it, and goes where it has no other. Bytes that are there already keep
    their passages and gain a name.
    """
    name = document.name
    known = await heads(table, f"document = {literal(document.id)} OR array_has(names, {literal(name)})")
    before = next((found for found in known if found.id == document.id), None)
    others = [found for found in known if found.id != document.id]
    if before and not others and before.name == name and before.metadata == document.metadata:
        return
    columns = await widened(table, document.metadata)
    if before is None:
        # not the table's own: it shows JSON as the bytes that it is stored in
        rows = table_of(document, chunks, vectors, schema(*await model_of(table), columns.names, words=columns.words))
        if not others:
            await table.add(rows)
            return
    else:
        names = [*(known for known in before.names if known != name), name]
        rows = renamed(await _rows(table, before.id), names, document.metadata)
    await _replace(table, rows, others, name)


async def _replace(table: "AsyncTable", rows: "pa.Table", others: Sequence[Document], name: str) -> None:
    import pyarrow as pa

    changed, gone = [rows], list[str]()
    for other in others:
        kept = [known for known in other.names if known != name]
        if kept:
            changed.append(renamed(await _rows(table, other.id), kept))
        else:
            gone.append(other.id)
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    if gone:
        listed = ", ".join(literal(document) for document in gone)
        merge = merge.when_not_matched_by_source_delete(f"document IN ({listed})")
    await merge.execute(pa.concat_tables(changed))


async def remove(table: "AsyncTable", document: str) -> None:
    """Raises NotFound."""
    removed: Any = await table.delete(f"document = {literal(document)}")
    if removed.num_deleted_rows == 0:
        raise no_document()


async def remove_name(table: "AsyncTable", document: str, name: str) -> None:
    """The document goes with its last name. Nothing changes where it does not have the name."""
    for known in await heads(table, f"document = {literal(document)} AND array_has(names, {literal(name)})"):
        kept = [other for other in known.names if other != name]
        if kept:
            rows = renamed(await _rows(table, document), kept)
            await table.merge_insert("id").when_matched_update_all().execute(rows)
        else:
            await remove(table, document)


async def _rows(table: "AsyncTable", document: str) -> "pa.Table":
    return await table.query().where(f"document = {literal(document)}").to_arrow()


def no_document() -> NotFound:
    return NotFound("No such document", field="document")
