"""Metadata in columns of its own: one for each field and type that a collection has met, so that a filter reads
numbers and strings, and an index of them, instead of every passage's JSON.

The JSON stays what is read back. Tables of before had it alone: until upkeep has given them their columns
(``complete_columns``), and for the fields of a collection that has too many, filters read the JSON as they did.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.rag.records import MetadataValue

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import AsyncTable

LETTERS = "snb"
"""Strings, numbers, booleans: a value's type is part of its column's name, and of its key in the JSON."""
READERS = {"s": "json_get_string", "n": "json_get_float", "b": "json_get_bool"}
MOST_COLUMNS = 64
# on this field of the table's schema is noted that no field of the metadata is without its column
MARKED = "document"
MARK = "metadata_columns"


@dataclass(frozen=True, slots=True)
class Columns:
    """The metadata's columns in one version of a table, in its order."""

    names: tuple[str, ...] = ()
    marked: bool = False
    """As many fields as may be are here. False in a table of before."""
    words: bool = True
    """The text as it is searched for has a column. False in a table of before."""

    @property
    def complete(self) -> bool:
        """Every field is here: what is not here, no passage has."""
        return self.marked and len(self.names) < MOST_COLUMNS


def type_letter(value: MetadataValue) -> str:
    if isinstance(value, bool):
        return "b"
    return "s" if isinstance(value, str) else "n"


def column_of(letter: str, key: str) -> str:
    """Lower case, since SQL and LanceDB take ``Year`` for ``year``: which letters are capitals is told before it."""
    capitals = sum(1 << place for place, char in enumerate(key) if char.isupper())
    return f"{letter}{capitals:x}_{key.lower()}" if capitals else f"{letter}_{key}"


def marked() -> dict[bytes, bytes]:
    return {MARK.encode(): b"1"}


def columns_of(schema: "pa.Schema") -> Columns:
    # the table's own fields have no underscore
    names = tuple(name for name in schema.names if "_" in name)
    told = schema.field(MARKED).metadata or {}
    return Columns(names, marked=MARK.encode() in told, words="words" in schema.names)


def fields(names: Iterable[str]) -> "list[pa.Field]":
    import pyarrow as pa

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


async def widened(table: "AsyncTable", metadata: Mapping[str, MetadataValue]) -> Columns:
    """The table's columns, with those that this metadata needs. The writers' lock is held.

    A commit of its own: a column that no passage has a value in yet changes no answer.
    """
    columns = columns_of(await table.schema())
    known = {column_of(type_letter(value), key): (type_letter(value), key) for key, value in metadata.items()}
    return await _add(table, columns, known)


async def complete_columns(table: "AsyncTable") -> None:
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


async def _add(table: "AsyncTable", columns: Columns, known: Mapping[str, tuple[str, str]]) -> Columns:
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
