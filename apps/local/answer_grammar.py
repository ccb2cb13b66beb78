"""What an answer must look like, as a grammar text: from a request's response_format, tools, tool_choice and forms.

Schemas are taken as tools have them, drafts 4 to 2020-12, and changed to what the grammar's compiler reads. It knows
tuples, ``definitions`` and the boolean bounds of draft 4 by itself. What is changed here allows no document that the
schema does not: bounds beyond the compiler's numbers are drawn in, and what says nothing to a validator either (unknown
formats, dialects of its own) is left out. What cannot be held to is refused.

JSON Schema lets an object that lists properties have any other one too. Strict clients refuse those, and a small model
goes on inventing them until its budget ends, so they are closed. `additionalProperties: true` opens an object.
"""

import importlib.util
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.core.errors import InvalidValue, ModelUnavailable
from apps.core.messages import ChatRequest, JsonObject
from apps.local.prompt import CALL_BEGINS, CALL_ENDS
from apps.local.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from apps.local.grammar import GrammarCompiler

MOST_CALLS = 4
NO_PARAMETERS: JsonObject = {"type": "object", "properties": {}, "additionalProperties": False}
LARGEST_SCHEMA = 64 * 1024
DEEPEST_SCHEMA = 64
MOST_CHOICES = 1000
# one way to write each document: where blanks are free, a small model goes on with them for ever
STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# the field of a request that holds a regex, a choice or a grammar
FORMS = "structured_outputs"


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """``lark`` is the grammar in llguidance's syntax; ``field`` the request's field that it was made of.

    ``own``: it is the caller's own text, which may be in llama.cpp's syntax (GBNF) too.
    """

    lark: str
    field: str
    own: bool = False


def offered_tools(request: ChatRequest) -> tuple[JsonObject, ...]:
    """The tools that the answer may call: none, all, or the one that tool_choice names."""
    tool_choice = request.tool_choice
    if tool_choice == "none":
        return ()
    if isinstance(tool_choice, Mapping):
        name = tool_choice["function"]["name"]
        named = tuple(tool for tool in request.tools if tool["function"]["name"] == name)
        if not named:
            raise InvalidValue(f"No tool is named {name}", field="tool_choice")
        return named
    return request.tools


def answer_grammar(request: ChatRequest) -> AnswerGrammar | None:
    """None where any text will do. Raises InvalidValue for a schema out of bounds, or a choice without tools."""
    tools = offered_tools(request)
    if request.answer_grammar is not None:
        if tools or _content(request) is not None:
            raise InvalidValue("A grammar takes no tools and no other form beside it", field=FORMS)
        return AnswerGrammar(_bounded(request.answer_grammar), FORMS, own=True)
    content = _content(request)
    if not tools:
        if request.tool_choice not in (None, "none", "auto"):
            raise InvalidValue("Tool choice needs tools", field="tool_choice")
        return AnswerGrammar(f"start: {content.lark}", content.field) if content else None
    begin = _literal(CALL_BEGINS)
    required = request.tool_choice not in (None, "auto")
    # a small model that must call goes on calling for as long as it may
    parallel = request.parallel_tool_calls is True or (request.parallel_tool_calls is None and not required)
    rules = [*_calls(tools, parallel=parallel)]
    if required:
        rules.append(f"start: {begin} calls")
    elif content:
        rules += [f"start: {begin} calls | content", f"content: {content.lark}"]
    else:
        # a lazy rule ends at the first chance: text with the mark in it cannot go on as text
        rules += ["start: TEXT | lead calls", f"lead[lazy]: TEXT {begin}", r"TEXT: /(.|\n)*/"]
    return AnswerGrammar("\n".join(rules), "tools")


def begins_freely(request: ChatRequest) -> bool:
    """Whether an answer may begin with any text, and so with thoughts.

    One that is held to a form, or that is to be a call, may not.
    """
    if request.tool_choice not in (None, "none", "auto"):
        return False
    form = (request.response_format or {}).get("type") not in (None, "text") or request.answer_regex is not None
    return not (form or request.answer_choices or request.answer_grammar)


def json_rule(schema: JsonObject, field: str) -> str:
    """A schema as a term of a grammar text. Raises InvalidValue for one that is too large or too deep."""
    if _deeper(schema, DEEPEST_SCHEMA):
        raise InvalidValue(f"The schema is nested deeper than {DEEPEST_SCHEMA} levels", field=field)
    # the caller's own options for the library must not count
    text = json.dumps({**closed_objects(compilable(schema, field)), "x-guidance": STYLE}, ensure_ascii=False)
    if len(text) > LARGEST_SCHEMA:
        details = {"max": LARGEST_SCHEMA, "received": len(text)}
        raise InvalidValue(f"The schema is larger than {LARGEST_SCHEMA} characters", field=field, details=details)
    return f"%json {text}"


def _content(request: ChatRequest) -> AnswerGrammar | None:
    """The form of the answer's text as one term; ``field`` is where the request has it."""
    form = request.response_format or {}
    terms = []
    if form.get("type") == "json_object":
        terms.append(
            AnswerGrammar(json_rule(form.get("schema") or {"type": "object"}, "response_format"), "response_format")
        )
    elif form.get("type") == "json_schema":
        schema = form["json_schema"].get("schema") or {"type": "object"}
        terms.append(AnswerGrammar(json_rule(schema, "response_format"), "response_format"))
    if request.answer_regex is not None:
        terms.append(AnswerGrammar(_regex(_bounded(request.answer_regex)), FORMS))
    if request.answer_choices:
        if len(request.answer_choices) > MOST_CHOICES:
            raise InvalidValue(f"Choice must have at most {MOST_CHOICES} texts", field=FORMS)
        terms.append(AnswerGrammar(f"({' | '.join(map(_literal, request.answer_choices))})", FORMS))
    if len(terms) > 1:
        raise InvalidValue("An answer has one form: a schema, a regex, a choice or a grammar", field=FORMS)
    return terms[0] if terms else None


def _regex(pattern: str) -> str:
    """A regular expression between slashes, on one line. It always matches the whole answer."""
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$") and not re.search(r"(?<!\\)(\\\\)*\\\$$", pattern):
        pattern = pattern[:-1]
    escaped = re.sub(r"\\.|/", lambda found: "\\/" if found[0] == "/" else found[0], pattern, flags=re.DOTALL)
    return "/" + escaped.replace("\n", r"\n").replace("\r", r"\r") + "/"


def _bounded(text: str) -> str:
    if not text.strip() or len(text) > LARGEST_SCHEMA:
        details = {"max": LARGEST_SCHEMA, "received": len(text)}
        raise InvalidValue(f"The form must have 1 to {LARGEST_SCHEMA} characters", field=FORMS, details=details)
    return text


def _calls(tools: Sequence[JsonObject], *, parallel: bool) -> list[str]:
    """Rules for what stands behind the first mark of a call."""
    more = f"({_literal(chr(10) + CALL_BEGINS)} call){{0,{MOST_CALLS - 1}}}" if parallel else ""
    ends = _literal(f"}}\n{CALL_ENDS}")
    rules = [f"calls: call {more}"]
    rules += ["call: " + " | ".join(f"call_{i}" for i in range(len(tools)))]
    for i, tool in enumerate(tools):
        function: Mapping[str, Any] = tool["function"]
        begins = _literal(f'\n{{"name": {json.dumps(function["name"])}, "arguments": ')
        rules.append(f"call_{i}: {begins} arguments_{i} {ends}")
        rules.append(f"arguments_{i}: {json_rule(function.get('parameters') or NO_PARAMETERS, 'tools')}")
    return rules


def _deeper(value: Any, levels: int) -> bool:
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(child, levels - 1) for child in children)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def open_compiler(tokenizer: ChatTokenizer) -> "GrammarCompiler":
    """Blocks for 0.2 s. Raises ModelUnavailable where llguidance is not installed."""
    if importlib.util.find_spec("llguidance") is None:
        raise ModelUnavailable(
            "Tools and response_format need llguidance on the local model: pip install -r requirements-local.txt",
            details={"missing": "llguidance"},
        )
    from apps.local.grammar import GrammarCompiler

    return GrammarCompiler(tokenizer.vocabulary())


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
# whole numbers, which JSON may write as 2.0
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
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
    for name in COUNTS:
        if isinstance(count := schema.get(name), float) and count.is_integer():
            made[name] = int(count)
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
