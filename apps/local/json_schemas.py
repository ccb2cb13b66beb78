"""Schemas as tools have them, drafts 4 to 2020-12, as the grammar's compiler reads them; and their objects closed.

The compiler knows tuples, ``definitions`` and the boolean bounds of draft 4 by itself. What is changed here allows no
document that the schema does not: bounds beyond the compiler's numbers are drawn in, and what says nothing to a
validator either (unknown formats, dialects of its own) is left out. What cannot be held to is refused.

JSON Schema lets an object that lists properties have any other one too. Strict clients refuse those, and a small model
goes on inventing them until its budget ends, so they are closed. `additionalProperties: true` opens an object.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from apps.core.errors import InvalidValue

SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
SCHEMA_LISTS = ("anyOf", "oneOf", "prefixItems")
SCHEMAS = ("items", "additionalItems", "additionalProperties", "contains")
SAYS_IT_ITSELF = ("additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames")
# beside these an object's properties are not all of its properties
COMBINING = ("allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas", "dependencies")


def closed_objects(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with its objects closed, but for those that are combined with others."""
    return dict(_closed(schema, frozenset(_combined(schema)), ""))


def _closed(schema: Any, combined: frozenset[str], at: str) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    changed: dict[str, Any] = dict(schema)
    for name in SCHEMA_MAPS:
        if isinstance(children := schema.get(name), Mapping):
            where = f"#/{name}/" if at == "" and name in ("$defs", "definitions") else "?"
            changed[name] = {key: _closed(child, combined, f"{where}{key}") for key, child in children.items()}
    # what stands beside properties belongs to the same object
    whole = "properties" not in schema
    for name in SCHEMA_LISTS if whole else ("prefixItems",):
        if isinstance(children := schema.get(name), list):
            changed[name] = [_closed(child, combined, "?") for child in children]
    for name in SCHEMAS:
        child = schema.get(name)
        if isinstance(child, list):
            changed[name] = [_closed(one, combined, "?") for one in child]
        elif isinstance(child, Mapping):
            changed[name] = _closed(child, combined, "?")
    if at not in combined and _can_close(schema):
        changed["additionalProperties"] = False
    return changed


def _can_close(schema: Mapping[str, Any]) -> bool:
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, Mapping) or any(name in schema for name in (*SAYS_IT_ITSELF, *COMBINING)):
        return False
    least = schema.get("minProperties", 0)
    enough = not isinstance(least, int) or least <= len(properties)
    return enough and isinstance(required, list) and all(name in properties for name in required)


def _combined(schema: Any) -> Iterable[str]:
    """The definitions that some object is only partly made of."""
    if isinstance(schema, list):
        for item in schema:
            yield from _combined(item)
    if not isinstance(schema, Mapping):
        return
    members = [schema] if "properties" in schema or "allOf" in schema else []
    for name in ("allOf", *(("anyOf", "oneOf") if "properties" in schema else ())):
        children = schema.get(name)
        members += [child for child in children if isinstance(child, Mapping)] if isinstance(children, list) else []
    yield from (member["$ref"] for member in members if isinstance(member.get("$ref"), str))
    for child in schema.values():
        yield from _combined(child)


MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
ONES = ("items", "additionalItems", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
# those that the compiler holds a text to; by the standard, any other is a note for readers
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
DIALECTS = ("draft-04", "draft-06", "draft-07", "draft/2019-09", "draft/2020-12")
# the largest numbers that the compiler draws a bound at, exact as floats: its own arithmetic
MOST_INTEGER = 2**63 - 1024
MOST_NUMBER = 10**15
EXACT = 2**53


def compilable(schema: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The schema for the compiler. Raises InvalidValue for ``field``, with what cannot be honoured."""
    made: dict[str, Any] = _compilable(schema, field)
    return made


def _compilable(schema: Any, field: str) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for name in MAPS:
        if isinstance(children := schema.get(name), Mapping):
            made[name] = {key: _compilable(child, field) for key, child in children.items()}
    for name in LISTS:
        if isinstance(children := schema.get(name), list):
            made[name] = [_compilable(child, field) for child in children]
    for name in ONES:
        if name in schema:
            child = schema[name]
            many = isinstance(child, list)
            made[name] = [_compilable(one, field) for one in child] if many else _compilable(child, field)
    if "$schema" in made and not _is_known(made["$schema"]):
        del made["$schema"]
    if made.get("format") not in FORMATS:
        made.pop("format", None)
    for value in [*([schema["const"]] if "const" in schema else []), *_listed(schema.get("enum"))]:
        _check_value(value, field)
    _draw_in(made, field)
    return made


def _is_known(dialect: Any) -> bool:
    return isinstance(dialect, str) and any(
        dialect.rstrip("#").endswith(f"json-schema.org/{draft}/schema") for draft in DIALECTS
    )


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else []


def _check_value(value: Any, field: str) -> None:
    """The compiler keeps numbers as floats: one that is none would be written as its neighbour."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            _check_value(one, field)
    elif isinstance(value, int) and abs(value) > EXACT and (abs(value) > MOST_INTEGER or int(float(value)) != value):
        raise InvalidValue(
            f"{field.replace('_', ' ').capitalize()} cannot be honoured: {value} is beyond 2^53, where a const or an "
            "enum cannot be held to every whole number",
            field=field,
            details={"reason": "a whole number beyond 2^53"},
        )


def _draw_in(schema: dict[str, Any], field: str) -> None:
    """Bounds beyond what the compiler can draw, on the safe side of where they are."""
    kinds = schema.get("type")
    whole = kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds and "number" not in kinds)
    most = MOST_INTEGER if whole else MOST_NUMBER
    for name, sign in (("maximum", 1), ("exclusiveMaximum", 1), ("minimum", -1), ("exclusiveMinimum", -1)):
        bound = schema.get(name)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or abs(bound) <= min(most, EXACT):
            continue
        if bound * sign < -most:
            # nothing that could be drawn lies on the right side of it
            raise InvalidValue(
                f"{field.replace('_', ' ').capitalize()} cannot be honoured: {name} {bound} is beyond {sign * -most}",
                field=field,
                details={"reason": f"{name} beyond {sign * -most}"},
            )
        schema[name] = sign * most if bound * sign >= most else _exact(bound, sign)


def _exact(bound: int | float, sign: int) -> int | float:
    """The nearest float that allows no more than ``bound`` does."""
    nearest = float(bound)
    if (nearest - bound if isinstance(bound, float) else int(nearest) - bound) * sign > 0:
        nearest = math.nextafter(nearest, -sign * math.inf)
    return int(nearest)
