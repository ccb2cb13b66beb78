"""Validation errors in the contract's words: pydantic's list in, one error of the tree out."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from apps.core.errors import AppError, InvalidType, InvalidValue, MissingRequiredField
from apps.core.fields import OUT_OF_RANGE, UNKNOWN_FIELD

WRONG_TYPE = {
    "string_type": "must be a string",
    "float_type": "must be a number",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "date_from_datetime_parsing": "must be a date like 2026-11-30",
    "date_parsing": "must be a date like 2026-11-30",
}
# pydantic knows one end of these: its name in the error's context, ours in the details, and the words
ONE_END = {
    "greater_than_equal": ("ge", "min", "must be at least"),
    "greater_than": ("gt", "min", "must be more than"),
    "less_than_equal": ("le", "max", "must be at most"),
    "less_than": ("lt", "max", "must be less than"),
}
# the same of lengths; what was received is a length too
LENGTHS = {
    "string_too_short": ("min_length", "min", "must be at least", "characters"),
    "string_too_long": ("max_length", "max", "must be at most", "characters"),
    "too_short": ("min_length", "min", "must have at least", "entries"),
    "too_long": ("max_length", "max", "must have at most", "entries"),
}
QUOTED = re.compile(r"'([^']*)'")
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
    field = ".".join(str(part) for part in location[1:])[:SHOWN_CHARACTERS]
    label = _label(location[1:])
    if kind == "missing":
        return MissingRequiredField(f"{label} is required", field=field)
    if kind in WRONG_TYPE or kind.endswith(("_type", "_parsing")):
        details = {"received_type": _json_type(error.get("input"))}
        return InvalidType(f"{label} {WRONG_TYPE.get(kind, 'has the wrong type')}", field=field, details=details)
    rule, details = _rule(kind, error)
    return InvalidValue(f"{label} {rule}", field=field, details=details)


def _rule(kind: str, error: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What the value should have been, in words and in details."""
    context, received = error.get("ctx", {}), {"received": _shown(error.get("input"))}
    if kind == OUT_OF_RANGE:
        return context["rule"], {name: _shown(context[name]) for name in ("min", "max", "received")}
    if kind in ONE_END:
        name, end, words = ONE_END[kind]
        return f"{words} {context[name]}", {end: context[name], **received}
    if kind in LENGTHS:
        name, end, words, what = LENGTHS[kind]
        return f"{words} {context[name]} {what}", {end: context[name], "received": len(error["input"])}
    if kind == "literal_error":
        allowed = QUOTED.findall(context["expected"])
        return f"must be one of {', '.join(allowed)}", {"allowed": allowed, **received}
    if kind == UNKNOWN_FIELD:
        return str(error["msg"]), {"known": context["known"].split(", ")}
    if kind == "value_error":  # of our own validators, whose words are made for this
        return str(error["msg"]).removeprefix("Value error, "), {}
    return "has a wrong value", received


def _label(path: Sequence[Any]) -> str:
    """What the message calls the field; an entry of a list is called what the list is."""
    names = [part for part in path if isinstance(part, str)] or path
    return str(names[-1])[:SHOWN_CHARACTERS].replace("_", " ").capitalize()


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
