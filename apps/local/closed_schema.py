"""Closes the objects of a JSON schema: one that lists properties and says nothing of others takes no others.

JSON Schema lets such an object have any property more. Strict clients refuse those, and a small model goes on
inventing them until its budget ends. `additionalProperties: true` opens an object.
"""

from collections.abc import Iterable, Mapping
from typing import Any

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
