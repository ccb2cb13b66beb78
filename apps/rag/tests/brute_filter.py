"""The filter language by its words, one passage at a time: what the compiled clauses are held against."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SIGNS = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


@dataclass(frozen=True)
class Row:
    names: tuple[str, ...]
    document: str
    kind: str
    page: int | None
    metadata: Mapping[str, Any]


def matches(row: Row, given: Mapping[str, Any]) -> bool:
    return all(_one(row, key, value) for key, value in given.items())


def _one(row: Row, key: str, value: Any) -> bool:
    if key == "$and":
        return all(matches(row, part) for part in value)
    if key == "$or":
        return any(matches(row, part) for part in value)
    if key == "$not":
        return not matches(row, value)
    conditions = value if isinstance(value, Mapping) else {"$eq": value}
    return all(_holds(row, key, name, operand) for name, operand in conditions.items())


def _holds(row: Row, key: str, name: str, operand: Any) -> bool:
    values = _values(row, key)
    if name == "$exists":
        return bool(values) is operand
    if name in ("$ne", "$nin"):
        return not _holds(row, key, "$eq" if name == "$ne" else "$in", operand)
    if name == "$in":
        return any(_holds(row, key, "$eq", one) for one in operand)
    alike = [value for value in values if _type(value) == _type(operand)]
    if name == "$eq":
        return operand in alike
    return any(SIGNS[name](value, operand) for value in alike)


def _values(row: Row, key: str) -> list[Any]:
    if key == "name":
        return list(row.names)
    found = getattr(row, key) if key in ("document", "kind", "page") else row.metadata.get(key)
    return [] if found is None else [found]


def _type(value: Any) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)
