"""The filter language, compiled to the where clause of a search.

    {"year": 2024}                                   equal
    {"year": {"$gte": 2020, "$lt": 2024}}            and
    {"team": {"$in": ["red", "blue"]}, "page": 3}    and
    {"$or": [{"draft": true}, {"$not": {"team": {"$exists": true}}}]}

Operators: $eq $ne $gt $gte $lt $lte $in $nin $exists. Fields are the metadata's and ``name``, ``document``, ``page``
and ``kind``. Types are strict: a number never equals a string, and a field that is missing, or of another type, is
not equal to anything ($ne and $nin are the exact opposites of $eq and $in, $not of what is in it).

A field's name is a plain word and a value becomes an escaped literal, so that nothing in a filter is ever code.

One condition of a filter as SQL, and its exact opposite, for the columns that a table has.

NOT is never put around a condition on a column: what is missing there is NULL, which NOT leaves NULL, and an index
of the column answers IS NULL, = and the orders directly.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from apps.core.errors import InvalidType, InvalidValue
from apps.rag.records import KEY, OWN_FIELDS, MetadataValue, scalar

LETTERS = "snb"
"""Strings, numbers, booleans: a value's type is part of its column's name, and of its key in the JSON."""
READERS = {"s": "json_get_string", "n": "json_get_float", "b": "json_get_bool"}
MOST_COLUMNS = 64
OPPOSITE = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}


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
    """Lower case, since SQL and LanceDB take ``Year`` for ``year``: the letter before it says which are capitals."""
    capitals = sum(1 << place for place, char in enumerate(key) if char.isupper())
    return f"{letter}{capitals:x}_{key.lower()}" if capitals else f"{letter}_{key}"


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


DEEPEST = 8
MOST_VALUES = 200
ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
# compared as the numbers of a filter are: there is a page 1.5 to ask for, too
PAGE = "CAST(page AS double)"
OPERATORS = ("$eq", "$ne", *ORDER, "$in", "$nin", "$exists")


def compile_filter(given: Mapping[str, Any] | None, columns: Columns) -> str | None:
    """The where clause for a table with these columns; None where everything matches.

    Raises InvalidType and InvalidValue (field ``filter``), whatever the columns.
    """
    if given is None or given == {}:
        return None
    return _Compiling(columns).every(given, 0, negated=False)


class _Compiling:
    """Used once. ``negated`` asks for the opposite: $not goes inwards, down to the single conditions."""

    def __init__(self, columns: Columns) -> None:
        self._metadata = MetadataClauses(columns)
        self._left = MOST_VALUES

    def every(self, given: Any, depth: int, negated: bool) -> str:
        if not isinstance(given, Mapping):
            raise InvalidType("A filter must be an object", field="filter")
        if depth > DEEPEST:
            raise InvalidValue(f"A filter is at most {DEEPEST} levels deep", field="filter")
        return joined((self._one(key, value, depth, negated) for key, value in given.items()), every=not negated)

    def _one(self, key: Any, value: Any, depth: int, negated: bool) -> str:
        self._spend()
        if key in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise InvalidType(f"{key} takes a list of filters", field="filter")
            parts = (self.every(part, depth + 1, negated) for part in value)
            return joined(parts, every=(key == "$and") is not negated)
        if key == "$not":
            return self.every(value, depth + 1, not negated)
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise InvalidValue("A filter's field is a metadata field, name, document, page or kind", field="filter")
        if not isinstance(value, Mapping):
            return self._among(key, [value], negated)
        if not value:
            raise InvalidValue(f"{key} has no condition", field="filter")
        conditions = (self._condition(key, operator, operand, negated) for operator, operand in value.items())
        return joined(conditions, every=not negated)

    def _condition(self, key: str, operator: Any, operand: Any, negated: bool) -> str:
        if operator in ("$eq", "$ne"):
            return self._among(key, [operand], negated is not (operator == "$ne"))
        if operator in ("$in", "$nin"):
            if not isinstance(operand, list):
                raise InvalidType(f"{operator} takes a list", field="filter")
            for _ in operand:
                self._spend()
            return self._among(key, operand, negated is not (operator == "$nin"))
        if operator == "$exists":
            if not isinstance(operand, bool):
                raise InvalidType("$exists takes true or false", field="filter")
            return self._exists(key, negated is operand)
        if operator in ORDER:
            return self._ordered(key, ORDER[operator], operand, negated)
        raise InvalidValue(f"A filter's operators are {', '.join(OPERATORS)}", field="filter")

    def _among(self, key: str, given: list[Any], negated: bool) -> str:
        values = [scalar(value, "filter") for value in given]
        if key not in OWN_FIELDS:
            return self._metadata.among(key, values, negated)
        own = [_number(value) if key == "page" else _text(key, value) for value in values]
        if not own:
            return joined([], every=negated)
        if key == "name":
            return has_name([str(name) for name in own], negated)
        return among(PAGE if key == "page" else key, own, negated)

    def _ordered(self, key: str, sign: str, given: Any, negated: bool) -> str:
        value = scalar(given, "filter")
        if key in ("name", "document", "kind") or isinstance(value, bool):
            raise InvalidValue(f"{key} has no order here", field="filter")
        if key == "page":
            return ordered(PAGE, sign, _number(value), negated)
        return self._metadata.ordered(key, sign, value, negated)

    def _exists(self, key: str, negated: bool) -> str:
        if key == "page":
            return "page IS NULL" if negated else "page IS NOT NULL"
        if key in OWN_FIELDS:
            return "false" if negated else "true"
        return self._metadata.exists(key, negated)

    def _spend(self) -> None:
        if not self._left:
            raise InvalidValue(f"A filter has at most {MOST_VALUES} conditions and values", field="filter")
        self._left -= 1


def _number(value: MetadataValue) -> float:
    if isinstance(value, bool | str):
        raise InvalidType("page is a number", field="filter")
    return float(value)


def _text(key: str, value: MetadataValue) -> str:
    if not isinstance(value, str):
        raise InvalidType(f"{key} is a string", field="filter")
    return value
