"""The filter language, compiled to the where clause of a search.

    {"year": 2024}                                   equal
    {"year": {"$gte": 2020, "$lt": 2024}}            and
    {"team": {"$in": ["red", "blue"]}, "page": 3}    and
    {"$or": [{"draft": true}, {"$not": {"team": {"$exists": true}}}]}

Operators: $eq $ne $gt $gte $lt $lte $in $nin $exists. Fields are the metadata's and ``name``, ``document``, ``page``
and ``kind``. Types are strict: a number never equals a string, and a field that is missing, or of another type, is
not equal to anything ($ne and $nin are the exact opposites of $eq and $in).

A field's name is a plain word and a value becomes an escaped literal, so that nothing in a filter is ever code.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from apps.core.errors import InvalidType, InvalidValue
from apps.rag.names import KEY, scalar
from apps.rag.records import MetadataValue

DEEPEST = 8
MOST_VALUES = 200
ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", *ORDER, "$in", "$nin", "$exists")


def compile_filter(given: Mapping[str, Any] | None) -> str | None:
    """The where clause; None where everything matches. Raises InvalidType and InvalidValue (field ``filter``)."""
    if given is None:
        return None
    budget = iter(range(MOST_VALUES))
    return _all(given, 0, lambda: _spend(budget)) or None


def metadata_document(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    """Metadata as it is stored: the type is part of the key, so that a comparison never meets another type."""
    return {f"{_type_letter(value)}_{key}": value for key, value in metadata.items()}


def read_metadata(stored: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    return {key[2:]: value for key, value in stored.items()}


def literal(value: MetadataValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(float(value))
    return "'" + value.replace("'", "''") + "'"


def _spend(budget: Iterable[int]) -> None:
    for _ in budget:
        return
    raise InvalidValue(f"A filter has at most {MOST_VALUES} conditions and values", field="filter")


def _all(given: Any, depth: int, spend: Callable[[], None]) -> str:
    if not isinstance(given, Mapping):
        raise InvalidType("A filter must be an object", field="filter")
    if depth > DEEPEST:
        raise InvalidValue(f"A filter is at most {DEEPEST} levels deep", field="filter")
    return " AND ".join(f"({_one(key, value, depth, spend)})" for key, value in given.items())


def _one(key: Any, value: Any, depth: int, spend: Callable[[], None]) -> str:
    spend()
    if key in ("$and", "$or"):
        if not isinstance(value, list) or not value:
            raise InvalidType(f"{key} takes a list of filters", field="filter")
        word = " AND " if key == "$and" else " OR "
        return word.join(f"({_all(part, depth + 1, spend) or 'true'})" for part in value)
    if key == "$not":
        return f"NOT ({_all(value, depth + 1, spend) or 'true'})"
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise InvalidValue("A filter's field is a metadata field, name, document, page or kind", field="filter")
    if not isinstance(value, Mapping):
        return _equal(key, value)
    if not value:
        raise InvalidValue(f"{key} has no condition", field="filter")
    return " AND ".join(f"({_condition(key, operator, operand, spend)})" for operator, operand in value.items())


def _condition(key: str, operator: Any, operand: Any, spend: Callable[[], None]) -> str:
    if operator == "$eq":
        return _equal(key, operand)
    if operator == "$ne":
        return f"NOT {_equal(key, operand)}"
    if operator in ("$in", "$nin"):
        if not isinstance(operand, list):
            raise InvalidType(f"{operator} takes a list", field="filter")
        for _ in operand:
            spend()
        found = " OR ".join(_equal(key, value) for value in operand) or "false"
        return f"({found})" if operator == "$in" else f"NOT ({found})"
    if operator == "$exists":
        if not isinstance(operand, bool):
            raise InvalidType("$exists takes true or false", field="filter")
        return _exists(key) if operand else f"NOT {_exists(key)}"
    if operator in ORDER:
        return _ordered(key, ORDER[operator], operand)
    raise InvalidValue(f"A filter's operators are {', '.join(OPERATORS)}", field="filter")


def _equal(key: str, value: Any) -> str:
    value = scalar(value, "filter")
    if key == "name":
        return f"array_has(names, {_text(key, value)})"
    if key in ("document", "kind"):
        return f"({key} = {_text(key, value)})"
    return f"coalesce({_reading(key, value)} = {literal(value)}, false)"


def _ordered(key: str, sign: str, value: Any) -> str:
    value = scalar(value, "filter")
    if key in ("name", "document", "kind") or isinstance(value, bool):
        raise InvalidValue(f"{key} has no order here", field="filter")
    return f"coalesce({_reading(key, value)} {sign} {literal(value)}, false)"


def _exists(key: str) -> str:
    if key == "page":
        return "(page IS NOT NULL)"
    if key in ("name", "document", "kind"):
        return "true"
    paths = (f"json_exists(metadata, '$.{letter}_{key}')" for letter in "snb")
    return f"coalesce({' OR '.join(paths)}, false)"


def _reading(key: str, value: MetadataValue) -> str:
    if key == "page":
        if isinstance(value, bool | str):
            raise InvalidType("page is a number", field="filter")
        return "page"
    reader = {"s": "json_get_string", "n": "json_get_float", "b": "json_get_bool"}[_type_letter(value)]
    return f"{reader}(metadata, '{_type_letter(value)}_{key}')"


def _text(key: str, value: MetadataValue) -> str:
    if not isinstance(value, str):
        raise InvalidType(f"{key} is a string", field="filter")
    return literal(value)


def _type_letter(value: MetadataValue) -> str:
    if isinstance(value, bool):
        return "b"
    return "s" if isinstance(value, str) else "n"
