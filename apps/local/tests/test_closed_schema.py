"""Objects of schemas keep to the properties that they list."""

from typing import Any

import pytest

from apps.local.answer_grammar import closed_objects

A = {"a": {"type": "integer"}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": A, "additionalProperties": True},
        {"type": "object", "properties": A, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": A, "patternProperties": {"^x": {}}},
        {"type": "object", "properties": A, "required": ["a", "b"]},
        {"type": "object", "properties": A, "minProperties": 2},
        {"allOf": [{"properties": A}, {"properties": {"b": {}}}]},
        {"properties": A, "anyOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]},
        {"enum": [{"properties": {}}], "const": {"properties": {}}, "default": {"properties": {}}},
        {"properties": "nonsense", "items": 3, "anyOf": 4},
    ],
)
def test_these_stay_as_they_are(schema: dict[str, Any]) -> None:
    assert closed_objects(schema) == schema


def test_objects_are_closed_wherever_they_stand() -> None:
    closed = {"properties": A, "additionalProperties": False}
    for found, expected in (
        ({"items": {"properties": A}}, {"items": closed}),
        ({"prefixItems": [{"properties": A}]}, {"prefixItems": [closed]}),
        ({"anyOf": [{"properties": A}, {"type": "null"}]}, {"anyOf": [closed, {"type": "null"}]}),
        ({"$defs": {"n": {"properties": A}}, "$ref": "#/$defs/n"}, {"$defs": {"n": closed}, "$ref": "#/$defs/n"}),
        (
            {"properties": {"o": {"properties": {}}}},
            {"properties": {"o": {"properties": {}, "additionalProperties": False}}, "additionalProperties": False},
        ),
    ):
        assert closed_objects(found) == expected


def test_a_definition_that_is_combined_stays_open_and_another_does_not() -> None:
    schema = {
        "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {}}}],
        "$defs": {"base": {"properties": A}, "other": {"properties": A}},
    }
    defs = closed_objects(schema)["$defs"]
    assert "additionalProperties" not in defs["base"]
    assert defs["other"]["additionalProperties"] is False
