"""Turns tokens into text as they come: whole characters only, up to a stop string, with the log probabilities of what
has gone out.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from apps.core.deltas import TokenLogprob

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


class StopStrings:
    """Lets text pass, holding back only an end that may turn out to be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found: str | None = None
        self.rest = ""

    def feed(self, text: str) -> str:
        """The text that may go out. Once one of them is ``found``, nothing more does."""
        if self.found:
            return ""
        text = self._held + text
        hits = [(at, len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if hits:
            at, length, self.found = min(hits)
            self._held, self.rest = "", text[at + length :]
            return text[:at]
        cut = len(text) - self._possible_beginning(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """What was held back and did not become a stop string."""
        held, self._held = self._held, ""
        return held

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        longest = min(len(text), max((len(stop) for stop in self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


class PendingLogprobs:
    """Holds the entries of tokens whose text has not gone out yet: it may be held back, or never go out at all."""

    def __init__(self) -> None:
        self._entries: deque[TokenLogprob] = deque()
        self._bytes = 0

    def add(self, entries: Iterable[TokenLogprob]) -> None:
        self._entries.extend(entries)

    def take(self, text: str) -> tuple[TokenLogprob, ...]:
        """Those of the tokens that begin within the text that goes out now."""
        self._bytes += len(text.encode())
        taken: list[TokenLogprob] = []
        while self._entries and self._bytes > 0:
            taken.append(self._entries.popleft())
            self._bytes -= len(taken[-1].raw)
        return tuple(taken)

    def rest(self) -> tuple[TokenLogprob, ...]:
        """All that is left, where nothing is held back any more."""
        taken = tuple(self._entries)
        self._entries.clear()
        return taken
