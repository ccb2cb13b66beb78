"""Grammars for answers, by llguidance: a JSON schema or a grammar text in, the constraint of one answer out.

The only place that knows llguidance.

What an answer must look like, as a grammar text: from a request's response_format, tools and tool_choice.
"""

import asyncio
import importlib.util
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from apps.core.errors import InternalError, InvalidValue, ModelUnavailable, Overloaded
from apps.core.messages import JsonObject
from apps.local.tokenizer import ChatTokenizer, Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from numpy.typing import NDArray

    from apps.local.json_completion import Landing
from collections.abc import Sequence
from dataclasses import dataclass

from apps.core.messages import ChatRequest
from apps.local.prompt import CALL_BEGINS, CALL_ENDS

PLACE = re.compile(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?")
LARGEST_SCHEMA = 64 * 1024
DEEPEST_SCHEMA = 64
COMPILE_SECONDS = 2.0
TURN_SECONDS = 10.0
# one way to write each document: where blanks are free, a small model goes on with them for ever
STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# a lexer state takes 1 to 2 kB of memory
MOST_LEXER_STATES = 20_000
LARGEST_GRAMMAR = 200_000


class GrammarConstraint:
    """Implements Constraint. ``field`` is the request's field that a grammar beyond its limits is blamed on."""

    def __init__(self, matcher: "LLMatcher", landing: "Landing", field: str) -> None:
        self._matcher = matcher
        self._landing = landing
        self._field = field

    @property
    def finished(self) -> bool:
        # also true after an error, which the next look at the mask raises
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self, remaining: int) -> "NDArray[Any]":
        from apps.local.json_completion import token_mask

        allowed = token_mask(self._matcher)
        if self._matcher.is_error():
            raise self._too_large()
        return self._landing.narrow(allowed, self._matcher, remaining)

    def forced(self) -> Sequence[int]:
        return list(self._matcher.compute_ff_tokens())

    def fitting(self, tokens: Sequence[int]) -> int:
        return int(self._matcher.validate_tokens(list(tokens)))

    def advance(self, token: int) -> None:
        fits = self._matcher.validate_tokens([token]) == 1
        if not fits and not self._matcher.is_error():
            raise InternalError("The local model left its grammar", details={"reason": "a token that is not allowed"})
        if not fits or not self._matcher.consume_token(token):
            raise self._too_large()
        self._landing.advance(token)

    def _too_large(self) -> InvalidValue:
        """The library's limits on work a token were met."""
        reason = _reason(self._matcher.get_error())
        return InvalidValue(
            "The grammar of the answer became too large while it was written",
            field=self._field,
            details={"reason": reason},
        )


class GrammarCompiler:
    """Compiles for one vocabulary. Making it takes 0.2 s; ``close`` ends its thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from llguidance import LLTokenizer
        from llguidance._tokenizer import TokenizerWrapper

        from apps.local.json_completion import ClosingTokens

        self._closing = ClosingTokens(vocabulary)
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Spelled(vocabulary)), eos_token=sorted(vocabulary.end_tokens))
        # compiling drops the interpreter's lock and ends by its own limits; a thread of its own keeps it off the loop
        self._pool = ThreadPoolExecutor(1, "local-grammar")

    async def compile(self, grammar: str, field: str) -> GrammarConstraint:
        """``grammar`` in llguidance's Lark syntax. Raises InvalidValue, with the reason, for ``field``;
        Overloaded where others' grammars keep it waiting; ModelUnavailable once closed."""
        loop = asyncio.get_running_loop()
        begun = asyncio.Event()

        def run() -> GrammarConstraint:
            loop.call_soon_threadsafe(begun.set)
            return self._compile(grammar, field)

        try:
            work = loop.run_in_executor(self._pool, run)
            async with asyncio.timeout(TURN_SECONDS):
                await begun.wait()
        except TimeoutError:
            work.cancel()
            raise Overloaded("Too many schemas wait to be compiled", retry_after=TURN_SECONDS) from None
        except RuntimeError as error:
            raise ModelUnavailable("The local model is shutting down", retry_after=5) from error
        try:
            return await asyncio.wait_for(work, COMPILE_SECONDS)
        except TimeoutError:
            raise InvalidValue(f"{_named(field)} takes too long to compile", field=field) from None

    def close(self) -> None:
        self._pool.shutdown(wait=False)

    def _compile(self, grammar: str, field: str) -> GrammarConstraint:
        from llguidance import LLMatcher, LLParserLimits

        from apps.local.json_completion import Landing

        limits = LLParserLimits(
            max_lexer_states=MOST_LEXER_STATES, max_grammar_size=LARGEST_GRAMMAR, verbose_errors=False
        )
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0, limits=limits)
        # the first mask finds what only shows at work, as a schema that no finite document meets
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            reason = _reason(matcher.get_error())
            raise InvalidValue(f"{_named(field)} cannot be honoured: {reason}", field=field, details={"reason": reason})
        return GrammarConstraint(matcher, Landing(self._closing), field)


def open_compiler(tokenizer: ChatTokenizer) -> GrammarCompiler:
    """Blocks for 0.2 s. Raises ModelUnavailable where llguidance is not installed."""
    if importlib.util.find_spec("llguidance") is None:
        raise ModelUnavailable(
            "Tools and response_format need llguidance on the local model: pip install -r requirements-local.txt",
            details={"missing": "llguidance"},
        )
    return GrammarCompiler(tokenizer.vocabulary())


def json_rule(schema: JsonObject, field: str) -> str:
    """A schema as a term of a grammar text. Raises InvalidValue for one that is too large or too deep."""
    if _deeper(schema, DEEPEST_SCHEMA):
        raise InvalidValue(f"The schema is nested deeper than {DEEPEST_SCHEMA} levels", field=field)
    # the caller's own options for the library must not count
    text = json.dumps({**schema, "x-guidance": STYLE}, ensure_ascii=False)
    if len(text) > LARGEST_SCHEMA:
        details = {"max": LARGEST_SCHEMA, "received": len(text)}
        raise InvalidValue(f"The schema is larger than {LARGEST_SCHEMA} characters", field=field, details=details)
    return f"%json {text}"


class _Spelled:
    """What llguidance's TokenizerWrapper wants to know of a tokenizer."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = min(vocabulary.end_tokens)
        self.tokens = vocabulary.tokens
        self.special_token_ids = sorted(vocabulary.special | vocabulary.end_tokens)
        self._backend = vocabulary.backend

    def __call__(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)


def _deeper(value: Any, levels: int) -> bool:
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(child, levels - 1) for child in children)


def _named(field: str) -> str:
    return field.replace("_", " ").capitalize()


def _reason(error: str) -> str:
    """On one line; where in the grammar text it was found says nothing to the caller."""
    return " ".join(PLACE.sub("", error).split())[:300] or "unknown"


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
