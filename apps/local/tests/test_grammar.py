"""Grammars over a vocabulary of single bytes, answered by dice: no model is as bad as that."""

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("llguidance", reason="llguidance comes with requirements-local.txt")
import numpy as np
from jsonschema import Draft202012Validator

from apps.core.errors import InternalError, InvalidValue
from apps.local.answer_grammar import json_rule, open_compiler
from apps.local.engine.decoding import masked
from apps.local.engine.port import Constraint
from apps.local.grammar import COMPILE_SECONDS, GrammarCompiler
from apps.local.tests.fakes import EchoTokenizer
from apps.local.tests.schemas import random_schema

END = 4


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = open_compiler(EchoTokenizer())
    yield compiler
    compiler.close()


async def compiled(compiler: GrammarCompiler, schema: dict[str, Any]) -> Constraint:
    return await compiler.compile(f"start: {json_rule(schema, 'response_format')}", "response_format")


def thrown(constraint: Constraint, budget: int, seed: int) -> tuple[bytes, bool]:
    """What dice write within the grammar, and whether they came to its end."""
    rng = random.Random(seed)
    written = bytearray()
    for remaining in range(budget, 0, -1):
        token = rng.choice(np.flatnonzero(constraint.allowed(remaining)).tolist())
        if token == END:
            return bytes(written), True
        written.append(token)
        constraint.advance(token)
        if constraint.finished:
            return bytes(written), True
    return bytes(written), False


@pytest.mark.parametrize("first", range(0, 200, 20))
@pytest.mark.long
async def test_of_random_schemas_even_dice_make_valid_documents(compiler: GrammarCompiler, first: int) -> None:
    for seed in range(first, first + 20):
        schema = random_schema(seed)
        written, ended = thrown(await compiled(compiler, schema), 600, seed)
        assert ended, (seed, schema, written)
        Draft202012Validator(schema).validate(json.loads(written))


@pytest.mark.parametrize("budget", [2, 3, 20, 100, 400])
async def test_any_json_object_ends_within_any_budget(compiler: GrammarCompiler, budget: int) -> None:
    for seed in range(10):
        written, ended = thrown(await compiled(compiler, {"type": "object"}), budget, seed)
        assert ended and isinstance(json.loads(written), dict)


async def test_a_document_that_no_budget_can_hold_is_cut_and_not_forged(compiler: GrammarCompiler) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "minLength": 50}}, "required": ["name"]}
    written, ended = thrown(await compiled(compiler, schema), 30, 1)
    assert not ended and len(written) == 30 and written.startswith(b'{"name": "')


async def test_there_is_one_way_to_write_blanks(compiler: GrammarCompiler) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"const": [True, None]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    written, ended = thrown(await compiled(compiler, schema), 100, 1)
    assert ended and written == b'{"a": 1, "b": [true, null]}'


async def test_a_schema_cannot_turn_the_librarys_own_options(compiler: GrammarCompiler) -> None:
    schema = {"const": {"a": 1}, "x-guidance": {"whitespace_flexible": True, "whitespace_pattern": "x*"}}
    written, _ = thrown(await compiled(compiler, schema), 100, 1)
    assert written == b'{"a": 1}'


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "strin"}, "strin"),
        ({"type": "object", "not": {}}, "not"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"$ref": "http://127.0.0.1:1/x"}, "127.0.0.1"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "#"}, ""),
    ],
)
async def test_a_schema_that_cannot_be_honoured_is_refused_with_the_reason(
    compiler: GrammarCompiler, schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidValue) as refused:
        await compiled(compiler, schema)
    assert refused.value.field == "response_format"
    assert reason in refused.value.details["reason"] and "\n" not in refused.value.message


def chain(kind: str) -> dict[str, Any]:
    """Every definition names the next one twice: written out they would be 2^40."""
    link = {f"d{i}": [{"$ref": f"#/$defs/d{i + 1}"}] * 2 for i in range(40)}
    if kind == "properties":
        ways: dict[str, Any] = {
            name: {"type": "object", "properties": {"l": two[0], "r": two[1]}, "required": ["l", "r"]}
            for name, two in link.items()
        }
    else:
        ways = {name: {kind: two} for name, two in link.items()}
    return {"$defs": {**ways, "d40": {"type": "null"}}, "$ref": "#/$defs/d0"}


BOMBS: dict[str, dict[str, Any]] = {
    "properties": chain("properties"),
    "allOf": chain("allOf"),
    "anyOf": chain("anyOf"),
    "combinations": {
        "allOf": [{"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(4)]} for i in range(10)]
    },
    "endless": {"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]},
    "long array": {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
    "long string": {"type": "string", "maxLength": 10**9},
    "repeats": {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
    "states": {"type": "string", "pattern": "^(a|b|ab)*c.{50}(a|b)*d$"},
    "properties of all names": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1000)}},
    "deep": json.loads('{"items": ' * 60 + "{}" + "}" * 60),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_schema_bomb_is_a_document_or_a_refusal_and_never_a_hang(compiler: GrammarCompiler, name: str) -> None:
    async with asyncio.timeout(10 * COMPILE_SECONDS):
        try:
            written, _ = thrown(await compiled(compiler, BOMBS[name]), 60, 1)
        except InvalidValue as refusal:
            assert refusal.field == "response_format"
        else:
            assert len(written) <= 60


def test_a_schema_too_deep_or_too_large_is_refused_before_it_is_compiled() -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"items": deep}
    with pytest.raises(InvalidValue, match="deeper than"):
        json_rule(deep, "tools")
    with pytest.raises(InvalidValue, match="larger than") as refused:
        json_rule({"enum": ["x" * 100_000]}, "tools")
    assert refused.value.field == "tools"


async def test_a_token_outside_of_the_grammar_is_an_error_and_no_document(compiler: GrammarCompiler) -> None:
    constraint = await compiled(compiler, {"type": "object"})
    with pytest.raises(InternalError):
        constraint.advance(ord("x"))


async def test_two_answers_of_one_grammar_do_not_share_their_state(compiler: GrammarCompiler) -> None:
    one, two = [await compiled(compiler, {"const": {"a": 1}}) for _ in range(2)]
    one.advance(ord("{"))
    assert two.allowed(50)[ord("{")] and not one.allowed(50)[ord("{")]


def test_masking_leaves_the_engines_row_alone_and_forbids_what_has_no_bit() -> None:
    row = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    assert masked(row, np.array([True, False, True])).tolist() == [1.0, -np.inf, 3.0, -np.inf]
    assert masked(row, np.array([False] * 4 + [True] * 28)).tolist() == [-np.inf] * 4
    assert row.tolist() == [1.0, 2.0, 3.0, 4.0]
