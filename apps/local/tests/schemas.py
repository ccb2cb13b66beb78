"""Random JSON schemas from the subset that the local model honours. The same seed gives the same schemas."""

import random
from typing import Any

Schema = dict[str, Any]
WORDS = ("name", "age", "city", "tags", "score", "active", "items", "notes", "unit", "kind", "x-1", "größe", "a b")
PATTERNS = (r"^[A-Z]{2}-\d{3}$", r"^(red|green|blue)$", r"^#[0-9a-f]{6}$", r"^\d{4}$")
FORMATS = ("date", "time", "uuid", "ipv4", "email")


def random_schema(seed: int) -> Schema:
    """An object, as the strict mode of OpenAI's API wants it at the top; sometimes one that refers to itself."""
    rng = random.Random(seed)
    schema = _object(rng, 2)
    if rng.random() < 0.15:
        node = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
        schema["$defs"] = {"node": {**node, "required": ["next"], "additionalProperties": False}}
        schema["properties"]["node"] = {"$ref": "#/$defs/node"}
        schema["required"] = [*schema["required"], "node"]
    return schema


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(WORDS, rng.randint(1, 3))
    properties = {name: _any(rng, depth - 1) for name in names}
    required = [name for name in names if rng.random() < 0.7]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _any(rng: random.Random, depth: int) -> Schema:
    kinds = [_string, _integer, _number, _enum, _boolean]
    kinds += [_array, _union, _nested] if depth > 0 else []
    return rng.choice(kinds)(rng, depth)


def _string(rng: random.Random, depth: int) -> Schema:
    shape = rng.randrange(4)
    if shape == 0:
        return {"type": "string", "pattern": rng.choice(PATTERNS)}
    if shape == 1:
        return {"type": "string", "format": rng.choice(FORMATS)}
    if shape == 2:
        least = rng.randint(0, 4)
        return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 12)}
    return {"type": "string"}


def _integer(rng: random.Random, depth: int) -> Schema:
    least = rng.randint(-1000, 1000)
    return {"type": "integer", "minimum": least, "maximum": least + rng.randint(0, 5000)}


def _number(rng: random.Random, depth: int) -> Schema:
    return {"type": "number"} if rng.random() < 0.5 else {"type": "number", "minimum": 0, "exclusiveMaximum": 10}


def _enum(rng: random.Random, depth: int) -> Schema:
    values = ["alpha", "beta", 'a "quoted" one', 7, None, True]
    return {"enum": rng.sample(values, rng.randint(1, 4))} if rng.random() < 0.8 else {"const": rng.choice(values)}


def _boolean(rng: random.Random, depth: int) -> Schema:
    return {"type": rng.choice(["boolean", "null"])}


def _array(rng: random.Random, depth: int) -> Schema:
    least = rng.randint(0, 2)
    return {"type": "array", "items": _any(rng, depth - 1), "minItems": least, "maxItems": least + rng.randint(0, 2)}


def _union(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(rng, depth - 1), _any(rng, depth - 1)]}


def _nested(rng: random.Random, depth: int) -> Schema:
    return _object(rng, depth)
