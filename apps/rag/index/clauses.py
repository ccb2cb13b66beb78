"""One condition of a filter as SQL, and its exact opposite, for the columns that a table has.

NOT is never put around a condition on a column: what is missing there is NULL, which NOT leaves NULL, and an index
of the column answers IS NULL, = and the orders directly.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from apps.rag.index.columns import LETTERS, READERS, Columns, column_of, type_letter
from apps.rag.records import MetadataValue

OPPOSITE = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}


def literal(value: MetadataValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        # with zero added, -0.0 is 0.0
        return repr(float(value) + 0.0)
    return "'" + value.replace("'", "''") + "'"


def joined(clauses: Iterable[str], every: bool) -> str:
    """All of them, or any of them; of none, what that means."""
    found = [f"({clause})" for clause in clauses]
    return (" AND " if every else " OR ").join(found) or ("true" if every else "false")


def among(column: str, values: Sequence[MetadataValue], negated: bool) -> str:
    """In a column of the table itself; the values are of its type. At least one."""
    listed = ", ".join(map(literal, values))
    if len(values) == 1:
        return f"({column} IS NULL OR {column} <> {listed})" if negated else f"{column} = {listed}"
    return f"({column} IS NULL OR {column} NOT IN ({listed}))" if negated else f"{column} IN ({listed})"


def ordered(column: str, sign: str, value: MetadataValue, negated: bool) -> str:
    if negated:
        return f"({column} IS NULL OR {column} {OPPOSITE[sign]} {literal(value)})"
    return f"{column} {sign} {literal(value)}"


def has_name(names: Sequence[str], negated: bool) -> str:
    found = joined((f"array_has(names, {literal(name)})" for name in names), every=False)
    return f"NOT ({found})" if negated else found


class MetadataClauses:
    """Conditions on the metadata's fields."""

    def __init__(self, columns: Columns) -> None:
        self._names = frozenset(columns.names)
        self._complete = columns.complete

    def among(self, key: str, values: Sequence[MetadataValue], negated: bool) -> str:
        by_type = groupby(sorted(values, key=type_letter), type_letter)
        return joined((self._of_type(letter, key, list(some), negated) for letter, some in by_type), every=negated)

    def ordered(self, key: str, sign: str, value: MetadataValue, negated: bool) -> str:
        letter = type_letter(value)
        column = column_of(letter, key)
        if column in self._names:
            return ordered(column, sign, value, negated)
        return self._elsewhere(f"{_reading(letter, key)} {sign} {literal(value)}", negated)

    def exists(self, key: str, negated: bool) -> str:
        return joined((self._has(letter, key, negated) for letter in LETTERS), every=negated)

    def _of_type(self, letter: str, key: str, values: Sequence[MetadataValue], negated: bool) -> str:
        column = column_of(letter, key)
        if column in self._names:
            return among(column, values, negated)
        return self._elsewhere(f"{_reading(letter, key)} IN ({', '.join(map(literal, values))})", negated)

    def _has(self, letter: str, key: str, negated: bool) -> str:
        column = column_of(letter, key)
        if column in self._names:
            return f"{column} IS NULL" if negated else f"{column} IS NOT NULL"
        return self._elsewhere(f"json_exists(metadata, '$.{letter}_{key}')", negated)

    def _elsewhere(self, reading: str, negated: bool) -> str:
        """In the JSON, unless no passage has the field."""
        if self._complete:
            return "true" if negated else "false"
        return f"{'NOT ' if negated else ''}coalesce({reading}, false)"


def _reading(letter: str, key: str) -> str:
    return f"{READERS[letter]}(metadata, '{letter}_{key}')"
