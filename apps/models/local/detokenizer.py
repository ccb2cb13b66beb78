"""Tokens in, text out, as it grows. Never half a character and never a space too few: both depend on neighbours."""

from collections.abc import Callable, Sequence

INCOMPLETE = "\ufffd"


class Detokenizer:
    """Turns the tokens of one answer into text, a token at a time.

    ``decode`` gives the text of a run of tokens. A token is decoded together with the ones just before it, since
    tokenizers strip or add a blank at the start of a run; the text of those is cut off again. Cost is constant a
    token: only the last undecided run is decoded.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._printed = 0

    def feed(self, token: int) -> str:
        """The text that has become certain; empty while a character is still incomplete."""
        self._tokens.append(token)
        before = self._decode(self._tokens[: self._printed])
        text = self._decode(self._tokens)
        if len(text) <= len(before) or text.endswith(INCOMPLETE):
            return ""
        self._tokens = self._tokens[self._printed :]
        self._printed = len(self._tokens)
        return text[len(before) :]

    def flush(self) -> str:
        """What is left at the end of the answer, less the bytes of a character that was never finished."""
        before = self._decode(self._tokens[: self._printed])
        text = self._decode(self._tokens)
        self._tokens, self._printed = [], 0
        return text[len(before) :].rstrip(INCOMPLETE)
