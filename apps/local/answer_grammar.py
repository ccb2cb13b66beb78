"""What an answer must look like, as a grammar text: from a request's response_format, tools, tool_choice and forms."""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.core.errors import InvalidValue, ModelUnavailable
from apps.core.messages import ChatRequest, JsonObject
from apps.local.json_schemas import closed_objects, compilable
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
    choice = request.tool_choice
    if choice == "none":
        return ()
    if isinstance(choice, Mapping):
        name = choice["function"]["name"]
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
