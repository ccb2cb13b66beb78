"""Grammars for answers, by llguidance: a grammar text in, the constraint of one answer out.

The only place that knows llguidance. What the text says is answer_grammar.py's.
"""

import asyncio
import importlib.util
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from apps.core.errors import InternalError, InvalidValue, ModelUnavailable, Overloaded
from apps.local.tokenizer import ChatTokenizer, Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from numpy.typing import NDArray

    from apps.local.json_completion import DocumentCloser

PLACE = re.compile(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?")
COMPILE_SECONDS = 2.0
TURN_SECONDS = 10.0
# a lexer state takes 1 to 2 kB of memory
MOST_LEXER_STATES = 20_000
LARGEST_GRAMMAR = 200_000


class GrammarConstraint:
    """Implements Constraint. ``field`` is the request's field that a grammar beyond its limits is blamed on."""

    def __init__(self, matcher: "LLMatcher", closer: "DocumentCloser", field: str) -> None:
        self._matcher = matcher
        self._closer = closer
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
        return self._closer.narrow(allowed, self._matcher, remaining)

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
        self._closer.advance(token)

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

    async def compile(self, grammar: str, field: str, *, own: bool = False) -> GrammarConstraint:
        """``grammar`` in llguidance's Lark syntax; with ``own`` a caller's text, in llama.cpp's syntax maybe.

        Raises InvalidValue, with the reason, for ``field``; Overloaded where other calls' grammars keep it waiting;
        ModelUnavailable once closed.
        """
        loop = asyncio.get_running_loop()
        begun = asyncio.Event()

        def run() -> GrammarConstraint:
            loop.call_soon_threadsafe(begun.set)
            return self._compile(grammar, field, own)

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

    def _compile(self, grammar: str, field: str, own: bool) -> GrammarConstraint:
        from llguidance import LLMatcher, LLParserLimits
        from llguidance.gbnf_to_lark import any_to_lark

        from apps.local.json_completion import DocumentCloser

        limits = LLParserLimits(
            max_lexer_states=MOST_LEXER_STATES, max_grammar_size=LARGEST_GRAMMAR, verbose_errors=False
        )
        if own:
            try:
                grammar = any_to_lark(grammar)
            except Exception as error:
                raise InvalidValue(f"{_named(field)} cannot be read: {_reason(str(error))}", field=field) from error
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0, limits=limits)
        # the first mask finds what only shows at work, as a schema that no finite document meets
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            reason = _reason(matcher.get_error())
            raise InvalidValue(f"{_named(field)} cannot be honoured: {reason}", field=field, details={"reason": reason})
        return GrammarConstraint(matcher, DocumentCloser(self._closing), field)


def open_compiler(tokenizer: ChatTokenizer) -> GrammarCompiler:
    """Blocks for 0.2 s. Raises ModelUnavailable where llguidance is not installed."""
    if importlib.util.find_spec("llguidance") is None:
        raise ModelUnavailable(
            "Tools and response_format need llguidance on the local model: pip install -r requirements-local.txt",
            details={"missing": "llguidance"},
        )
    return GrammarCompiler(tokenizer.vocabulary())


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


def _named(field: str) -> str:
    return field.replace("_", " ").capitalize()


def _reason(error: str) -> str:
    """On one line; where in the grammar text it was found says nothing to the caller."""
    return " ".join(PLACE.sub("", error).split())[:300] or "unknown"
