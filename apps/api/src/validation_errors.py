"""Validation errors in the contract's words: pydantic's list in, one error of the tree out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from apps.core.errors import AppError, InvalidType, InvalidValue, MissingRequiredField

WRONG_TYPE = {
    "string_type": "must be a string",
    "float_type": "must be a number",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}
OUT_OF_RANGE = "out_of_range"
SHOWN_CHARACTERS = 100


def as_app_error(errors: Sequence[Mapping[str, Any]]) -> AppError:
    """The first wrong field makes the error; ``details.errors`` lists them all, in the order of the fields."""
    all_of_them = [_one(error) for error in errors]
    first = all_of_them[0]
    first.details["errors"] = [
        {"field": error.field, "code": error.code, "message": error.message} for error in all_of_them
    ]
    return first


def _one(error: Mapping[str, Any]) -> AppError:
    kind, location = str(error["type"]), error["loc"]
    if len(location) < 2:
        return InvalidType("Request body must be a JSON object")
    field = ".".join(str(part) for part in location[1:])
    label = str(location[-1]).replace("_", " ").capitalize()
    if kind == "missing":
        return MissingRequiredField(f"{label} is required", field=field)
    if kind in WRONG_TYPE or kind.endswith(("_type", "_parsing")):
        details = {"received_type": _json_type(error.get("input"))}
        return InvalidType(f"{label} {WRONG_TYPE.get(kind, 'has the wrong type')}", field=field, details=details)
    if kind == OUT_OF_RANGE:
        context = error["ctx"]
        details = {name: _shown(context[name]) for name in ("min", "max", "received")}
        return InvalidValue(f"{label} {context['rule']}", field=field, details=details)
    if kind == "value_error":  # of our own validators, whose words are made for this
        return InvalidValue(f"{label} {str(error['msg']).removeprefix('Value error, ')}", field=field)
    return InvalidValue(f"{label} has a wrong value", field=field, details={"received": _shown(error.get("input"))})


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return "null" if value is None else names.get(type(value), "unknown")


def _shown(value: Any) -> Any:
    """What may be repeated in an answer: short, and always valid JSON."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value if abs(value) < 2**63 else "a very large integer"
    return value[:SHOWN_CHARACTERS] if isinstance(value, str) else _json_type(value)
