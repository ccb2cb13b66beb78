"""Schemas as tools have them: what the grammar then takes, what it keeps out, and what is refused by its name."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from apps.core.errors import InvalidValue
from apps.local.answer_grammar import compilable, json_rule
from apps.local.tests.fakes import EchoTokenizer

DRAFT4 = "http://json-schema.org/draft-04/schema#"
INT64, UINT64 = 2**63 - 1, 2**64 - 1


@pytest.fixture(scope="module")
def compiler() -> Iterator[Any]:
    pytest.importorskip("llguidance", reason="llguidance comes with requirements-local.txt")
    from apps.local.answer_grammar import open_compiler

    made = open_compiler(EchoTokenizer())
    yield made
    made.close()


async def takes(compiler: Any, schema: dict[str, Any], document: Any) -> bool:
    text = json.dumps(document, ensure_ascii=False)
    constraint = await compiler.compile(f"start: {json_rule(schema, 'tools')}", "tools")
    for byte in text.encode():
        if constraint.finished or not constraint.allowed(500)[byte]:
            return False
        constraint.advance(byte)
    return bool(constraint.finished or constraint.allowed(500)[4])


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"$schema": DRAFT4, "type": "integer", "minimum": 0, "exclusiveMinimum": True}, [1], [0]),
        (
            {"$schema": DRAFT4, "id": "http://a/b", "definitions": {"x": {"enum": [7]}}, "$ref": "#/definitions/x"},
            [7],
            [8],
        ),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "integer", "exclusiveMinimum": 0}, [1], [0]),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "boolean"}, [True], [1]),
        ({"$schema": "http://json-schema.org/schema#", "type": "boolean"}, [False], [0]),
        ({"$schema": "urn:of:mine", "type": "boolean"}, [False], [0]),
        ({"type": "array", "items": [{"type": "integer"}, {"type": "boolean"}]}, [[1, True]], [[True, 1]]),
        ({"type": "array", "items": [{"type": "integer"}], "additionalItems": False}, [[1]], [[1, 2]]),
        ({"type": "array", "prefixItems": [{"type": "integer"}], "items": False}, [[1]], [[1, 2]]),
        ({"type": "string", "pattern": r"^\p{L}+$"}, ["äß"], ["1"]),
        ({"type": "string", "pattern": r"^\p{Lu}\P{Lu}$"}, ["Äß"], ["ää"]),
        ({"type": "string", "pattern": r"^[\p{L}\p{N}_-]{1,3}$"}, ["a1_"], ["a b"]),
        ({"type": "integer", "format": "uint32"}, [5], []),
        ({"type": ["string", "null"], "format": "int32"}, [None, "x"], []),
        ({"type": "string", "format": "date"}, ["2026-11-27"], ["x"]),
        ({"type": "integer", "minimum": -INT64 - 1, "maximum": INT64}, [0, -5, 2**62], [10**19, -(10**19)]),
        ({"type": "integer", "minimum": 0, "maximum": UINT64}, [0, 2**62], [-1, 10**20]),
        ({"type": "integer", "minimum": 2**53 + 1}, [2**53 + 2], [2**53]),
        ({"type": "integer", "maximum": 2**53 + 1}, [2**53], [2**53 + 4]),
        ({"type": "number", "minimum": -(2**63), "maximum": 1e300}, [1.5], []),
        ({"const": 2**60}, [2**60], [2**60 + 1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1.0, "maxItems": 2.0}, [[1, 2]], [[1, 2, 3], []]),
    ],
)
async def test_a_schema_of_any_draft_holds_the_answer(
    compiler: Any, schema: dict[str, Any], right: list[Any], wrong: list[Any]
) -> None:
    for document in right:
        assert await takes(compiler, schema, document), document
    for document in wrong:
        assert not await takes(compiler, schema, document), document


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"const": 2**53 + 1}, "9007199254740993"),
        ({"properties": {"a": {"enum": [1, {"b": [2**70]}]}}}, str(2**70)),
        ({"type": "integer", "minimum": 10**20}, "minimum"),
        ({"type": "number", "maximum": -1e300}, "maximum"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "^(?!a)"}, "look-a"),
        ({"type": "string", "pattern": r"\p{Nonsense}"}, "Unicode property not found"),
        ({"type": "any"}, "any"),
        ({"$ref": "http://elsewhere/schema.json"}, "elsewhere"),
    ],
)
async def test_what_cannot_be_held_to_is_refused_by_its_name(compiler: Any, schema: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match="cannot be honoured") as refused:
        await takes(compiler, schema, "")
    assert refused.value.field == "tools" and words in refused.value.message
    # of the grammar that the schema became nothing is shown
    assert "start:" not in refused.value.message and "x-guidance" not in str(refused.value.details)


def test_data_in_a_schema_is_no_schema() -> None:
    schema = {"default": {"format": "x"}, "examples": [{"maximum": 2**70}], "enum": [{"format": "x"}], "items": 3}
    assert compilable(schema, "tools") == schema
    assert compilable({"properties": {"format": {"type": "string"}}}, "tools")["properties"] == {
        "format": {"type": "string"}
    }
