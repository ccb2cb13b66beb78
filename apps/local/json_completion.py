"""Ends a JSON document within its budget of tokens: a small model left alone goes on until the budget cuts it.

While there is room, every token of the grammar is allowed. Near the end only tokens that open nothing are, beside the
next one of a short path to a complete document; at the very end only that path.
"""

import string
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.local.tokenizer import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from numpy.typing import NDArray

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

    def narrow(self, allowed: "NDArray[Any]", matcher: "LLMatcher", remaining: int) -> "NDArray[Any]":
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

    def _narrowed(self, allowed: "NDArray[Any]", next_on_path: int, room: int) -> "NDArray[Any]":
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

    def _path_still_ends(self, matcher: "LLMatcher") -> bool:
        if self._path is None:
            return False
        copy = matcher.deep_copy()
        return copy.try_consume_tokens(self._path) == len(self._path) and bool(copy.is_accepting())

    def _find_path(self, matcher: "LLMatcher", longest: int) -> list[int] | None:
        """Inside a string or outside of one, the other characters close: text around a document may have misled the
        count of quotes, so both are tried."""
        for in_string in (self._in_string, not self._in_string):
            path = self._walk(matcher.deep_copy(), in_string, longest)
            if path is not None:
                self._in_string = in_string
                return path
        return None

    def _walk(self, matcher: "LLMatcher", in_string: bool, longest: int) -> list[int] | None:
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

    def _next(self, allowed: "NDArray[Any]", in_string: bool, used: Counter[int]) -> int:
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


def token_mask(matcher: "LLMatcher") -> "NDArray[Any]":
    """A bool for each token; the mask is padded to whole words of 32."""
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little").astype(bool)
