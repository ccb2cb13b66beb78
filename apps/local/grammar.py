"""Grammars for answers, by llguidance: a grammar text in, the constraint of one answer out. Its only adapter.

What the text says is answer_grammar.py's, which imports this module at the first grammar. A JSON document is ended
within its budget of tokens, since a small model goes on until the budget cuts it. While there is room, every token of
the grammar is allowed. Near the end only tokens that open nothing are, beside the next one of a short path to a
complete document; at the very end only that path.
"""

import asyncio
import re
import string
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper
from llguidance.gbnf_to_lark import any_to_lark
from numpy.typing import NDArray

from apps.core.errors import InternalError, InvalidValue, ModelUnavailable, Overloaded
from apps.local.tokenizer import Vocabulary

PLACE = re.compile(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?")
EXCERPT = re.compile(r"\n *\d+ \|.*", re.DOTALL)
COMPILE_SECONDS = 2.0
TURN_SECONDS = 10.0
# a lexer state takes 1 to 2 kB of memory
MOST_LEXER_STATES = 20_000
LARGEST_GRAMMAR = 200_000


class GrammarConstraint:
    """Implements Constraint. ``field`` is the request's field that a grammar beyond its limits is blamed on."""

    def __init__(self, matcher: LLMatcher, closer: "DocumentCloser", field: str) -> None:
        self._matcher = matcher
        self._closer = closer
        self._field = field

    @property
    def finished(self) -> bool:
        # also true after an error, which the next look at the mask raises
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self, remaining: int) -> NDArray[Any]:

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
        self._closing = ClosingTokens(vocabulary)
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_TokenBytes(vocabulary)), eos_token=sorted(vocabulary.end_tokens)
        )
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
        limits = LLParserLimits(
            max_lexer_states=MOST_LEXER_STATES, max_grammar_size=LARGEST_GRAMMAR, verbose_errors=False
        )
        if own:
            try:
                grammar = any_to_lark(grammar)
            except Exception as error:
                raise InvalidValue(
                    f"{_named(field)} cannot be read: {_reason(str(error), own=True)}", field=field
                ) from error
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0, limits=limits)
        # the first mask finds what only shows at work, as a schema that no finite document meets
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            reason = _reason(matcher.get_error(), own=own)
            raise InvalidValue(f"{_named(field)} cannot be honoured: {reason}", field=field, details={"reason": reason})
        return GrammarConstraint(matcher, DocumentCloser(self._closing), field)


class _TokenBytes:
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


def _reason(error: str, *, own: bool = False) -> str:
    """On one line; where in the grammar text it was found says something to the caller of whose ``own`` it is only."""
    text = error if own else EXCERPT.sub("", PLACE.sub("", error))
    return " ".join(text.split())[:300] or "unknown"


# how long the path can become by one token, as by one that opens an object with required properties
LEAST_ZONE = 32
# what a token that opens nothing can add to the path: the rest of a literal
SLACK = 4
# far from the end the path is looked for only so often
EVERY = 16
LONGEST_PATH = 512
LONG_TOKENS = 4


class ClosingTokens:
    """What of a vocabulary helps to end a document. One for all answers."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        ids = {token: i for i, token in enumerate(vocabulary.tokens) if len(token) == 1}
        outside = [ids[c] for c in (b"}", b"]", *(b"%d" % digit for digit in range(10)), b'"') if c in ids]
        self.preferred = {False: outside, True: [ids[b'"']] if b'"' in ids else []}
        # patterns are usually held together by these; the others come after them
        order = dict.fromkeys("@.:-/_#+TZ" + string.digits + string.ascii_letters + string.punctuation)
        self.characters = np.array([ids[c.encode()] for c in order if c not in '"\\' and c.encode() in ids], int)
        self.quotes = [token.count(b'"') % 2 == 1 and b"\\" not in token for token in vocabulary.tokens]
        self.lengths = np.array([0 if b"\\" in token else len(token) for token in vocabulary.tokens])
        self.safe = {
            False: np.array([not any(c in token for c in b'{["\\,') for token in vocabulary.tokens]),
            True: np.array([not any(c in token for c in b'"\\') for token in vocabulary.tokens]),
        }


class DocumentCloser:
    """One answer's. ``narrow`` is called before each token and ``advance`` after each."""

    def __init__(self, closing: ClosingTokens) -> None:
        self._closing = closing
        self._zone: int | None = None
        self._path: list[int] | None = None
        self._in_string = False
        self._until_next_look = 0

    def narrow(self, allowed: NDArray[Any], matcher: LLMatcher, remaining: int) -> NDArray[Any]:
        """Of the ``allowed`` tokens those that leave room for an end within ``remaining`` tokens; all, where no path
        to an end was found."""
        if self._until_next_look > 0:
            self._until_next_look -= 1
            return allowed
        if not self._path_still_ends(matcher):
            self._path = self._find_path(matcher, min(remaining, LONGEST_PATH))
        if self._path is None:
            self._until_next_look = EVERY
            return allowed
        if self._zone is None:
            self._zone = max(LEAST_ZONE, len(self._path))
        room = remaining - len(self._path)
        if not self._path or room > self._zone + EVERY:
            # it takes at least as many tokens to use the room up
            self._until_next_look = min(EVERY, room // 2) if self._path else EVERY
            return allowed
        return self._narrowed(allowed, self._path[0], room)

    def advance(self, token: int) -> None:
        if self._path:
            self._path = self._path[1:] if self._path[0] == token else self._path
        self._in_string ^= self._closing.quotes[token]

    def _narrowed(self, allowed: NDArray[Any], next_on_path: int, room: int) -> NDArray[Any]:
        if room > SLACK:
            safe = self._closing.safe[self._in_string]
            if room > (self._zone or 0):
                return allowed
            narrowed = np.zeros_like(allowed)
            np.logical_and(allowed[: len(safe)], safe, out=narrowed[: len(safe)])
        else:
            narrowed = np.zeros_like(allowed)
        narrowed[next_on_path] = True
        return narrowed

    def _path_still_ends(self, matcher: LLMatcher) -> bool:
        if self._path is None:
            return False
        copy = matcher.deep_copy()
        return copy.try_consume_tokens(self._path) == len(self._path) and bool(copy.is_accepting())

    def _find_path(self, matcher: LLMatcher, longest: int) -> list[int] | None:
        """Inside a string or outside of one, the other characters close: text around a document may have misled the
        count of quotes, so both are tried."""
        for in_string in (self._in_string, not self._in_string):
            path = self._walk(matcher.deep_copy(), in_string, longest)
            if path is not None:
                self._in_string = in_string
                return path
        return None

    def _walk(self, matcher: LLMatcher, in_string: bool, longest: int) -> list[int] | None:
        path: list[int] = []
        used: Counter[int] = Counter()
        while not matcher.is_accepting():
            if len(path) >= longest:
                return None
            token = self._next(token_mask(matcher), in_string, used)
            if not matcher.consume_token(token):
                return None
            path.append(token)
            used = used if in_string else Counter()
            used[token] += 1
            in_string ^= self._closing.quotes[token]
        return path

    def _next(self, allowed: NDArray[Any], in_string: bool, used: Counter[int]) -> int:
        """What closes, where it may. Else the longest token, which gets furthest through a fixed text or a least
        length; but a pattern may let that go on for ever, so after a few of them each character has its turn."""
        closing = self._closing
        for token in closing.preferred[in_string]:
            if allowed[token]:
                return token
        characters = closing.characters[allowed[closing.characters]].tolist()
        if in_string and len(characters) > 1 and used.total() > LONG_TOKENS:
            return int(min(characters, key=used.__getitem__))
        return int(np.where(allowed[: len(closing.lengths)], closing.lengths, -1).argmax())


def token_mask(matcher: LLMatcher) -> NDArray[Any]:
    """A bool for each token; the mask is padded to whole words of 32."""
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little").astype(bool)
