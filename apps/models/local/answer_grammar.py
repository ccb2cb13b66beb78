"""What an answer must look like, as a grammar text: from a request's response_format, tools and tool_choice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apps.core.errors import InvalidValue
from apps.core.messages import ChatRequest, JsonObject
from apps.models.local.grammar import json_rule
from apps.models.local.tool_prompt import CALL_BEGINS, CALL_ENDS

MOST_CALLS = 4
NO_PARAMETERS: JsonObject = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """``lark`` is the grammar in llguidance's syntax; ``field`` the request's field that it was made of."""

    lark: str
    field: str


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
    content = _content(request.response_format)
    tools = offered_tools(request)
    if not tools:
        if request.tool_choice not in (None, "none", "auto"):
            raise InvalidValue("Tool choice needs tools", field="tool_choice")
        return AnswerGrammar(f"start: {content}", "response_format") if content else None
    begin = _literal(CALL_BEGINS)
    rules = [*_calls(tools, parallel=request.parallel_tool_calls is not False)]
    if request.tool_choice not in (None, "auto"):
        rules.append(f"start: {begin} calls")
    elif content:
        rules += [f"start: {begin} calls | content", f"content: {content}"]
    else:
        # a lazy rule ends at the first chance: text with the mark in it cannot go on as text
        rules += ["start: TEXT | lead calls", f"lead[lazy]: TEXT {begin}", r"TEXT: /(.|\n)*/"]
    return AnswerGrammar("\n".join(rules), "tools")


def _content(response_format: JsonObject | None) -> str | None:
    kind = (response_format or {}).get("type")
    if kind == "json_object":
        return json_rule({"type": "object"}, "response_format")
    if response_format is not None and kind == "json_schema":
        return json_rule(response_format["json_schema"].get("schema") or {"type": "object"}, "response_format")
    return None


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


def _literal(text: str) -> str:
    return json.dumps(text)
