"""Tokens of a running `generate` as pieces of an answer.

Stands where transformers' TextIteratorStreamer would, with its two methods: that one holds text back to the next
blank, decodes the whole line again for each token, and its queue has no bound.
"""

from collections.abc import Callable, Sequence
from typing import Any

from apps.models.local.detokenizer import Detokenizer
from apps.models.local.engine import Piece, Sampling
from apps.models.local.stop_strings import StopStrings


class PieceStreamer:
    """A streamer of transformers for one answer: ``put`` gets the prompt first, then each token.

    ``stopped`` turns true at a stop string. The last piece has the finish reason: `stop` for an end token or a stop
    string, `length` where ``max_tokens`` ran out. All generated tokens are counted, the end token among them.
    """

    def __init__(
        self,
        send: Callable[[Piece], None],
        decode: Callable[[Sequence[int]], str],
        end_tokens: frozenset[int],
        sampling: Sampling,
    ) -> None:
        self._send = send
        self._end_tokens = end_tokens
        self._max_tokens = sampling.max_tokens
        self._detokenizer = Detokenizer(decode)
        self._stops = StopStrings(sampling.stop)
        self._tokens = 0
        self._prompt_seen = False
        self.stopped = False

    def put(self, value: Any) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for token in value.flatten().tolist():
            self._take(token)

    def end(self) -> None:
        """`generate` is through; the last token has already ended the answer."""

    def _take(self, token: int) -> None:
        if self.stopped:
            return
        self._tokens += 1
        if token in self._end_tokens:
            self._finish("", "stop")
            return
        text = self._stops.feed(self._detokenizer.feed(token))
        if self._stops.found:
            self._finish(text, "stop")
        elif self._tokens >= self._max_tokens:
            self._finish(text, "length")
        elif text:
            self._send(Piece(text, self._tokens))

    def _finish(self, text: str, reason: str) -> None:
        if not self._stops.found:
            text += self._stops.feed(self._detokenizer.flush())
            # the rest of the text may complete a stop string that the last token left open
            reason = "stop" if self._stops.found else reason
            text += self._stops.flush()
        self.stopped = True
        self._send(Piece(text, self._tokens, reason))
