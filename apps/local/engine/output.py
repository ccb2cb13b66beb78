"""Turns an answer's tokens into what its reader gets, in both engines: text, log probabilities, why it ended.

Log probabilities are those of the model's own distribution, before constraint, temperature and top_p.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.core.deltas import TokenLogprob
from apps.local.detokenizer import Detokenizer, PendingLogprobs, StopStrings
from apps.local.engine.port import EngineOutput, Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

# what OpenAI's API says for a probability too small to say
LEAST = -9999.0


class LogprobRecorder:
    """``top`` alternatives a token, 0 to 20; ``token_bytes`` gives a token's bytes. Keeps nothing of an answer."""

    def __init__(self, top: int, token_bytes: Callable[[int], bytes]) -> None:
        self._top = top
        self._token_bytes = token_bytes

    def entry(self, logits: "NDArray[Any]", token: int) -> TokenLogprob:
        """Of ``token``, which was chosen from the float32 row ``logits``."""
        # float32 takes a sixth of the time of float64; only the sum needs more
        most = float(logits.max())
        total = most + math.log(float(np.exp(logits - most).sum(dtype=np.float64)))
        top = tuple(self._entry(logits, total, other) for other in self._likeliest(logits))
        return self._entry(logits, total, token, top)

    def first(self, token: int) -> TokenLogprob:
        """Of a prompt's first token, which was chosen from nothing."""
        raw = self._token_bytes(token)
        return TokenLogprob(raw.decode("utf-8", "replace"), raw, None)

    def _likeliest(self, row: "NDArray[Any]") -> list[int]:
        if self._top == 0:
            return []
        top = min(self._top, len(row))
        tokens: list[int] = row.argpartition(len(row) - top)[-top:].tolist()
        return sorted(tokens, key=lambda token: (-row[token], token))

    def _entry(self, row: "NDArray[Any]", total: float, token: int, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = self._token_bytes(token)
        logprob = max(min(float(row[token]) - total, 0.0), LEAST)
        return TokenLogprob(raw.decode("utf-8", "replace"), raw, logprob, top)


class OutputProcessor:
    """One answer's. ``finished`` turns true with the last output.

    The finish reason is `stop` for an end token, a stop string or the end of the grammar, `length` where ``max_tokens``
    ran out. All generated tokens are counted, the end token among them. ``token_bytes`` gives a token's bytes, for log
    probabilities.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        end_tokens: frozenset[int],
        sampling: Sampling,
        token_bytes: Callable[[int], bytes],
        cached_tokens: int = 0,
    ) -> None:
        self.finished = False
        self.cached_tokens = cached_tokens
        self.prompt_logprobs: tuple[TokenLogprob, ...] = ()
        self._end_tokens = end_tokens
        self._sampling = sampling
        self._detokenizer = Detokenizer(decode)
        self._stops = StopStrings(sampling.stop)
        self._tokens = 0
        self._recorder = None if sampling.top_logprobs is None else LogprobRecorder(sampling.top_logprobs, token_bytes)
        self._logprobs = PendingLogprobs()

    def take(self, token: int, logits: "NDArray[Any]", complete: bool = False) -> EngineOutput | None:
        """What became certain with ``token``, which was chosen from ``logits``; None where nothing did.

        ``complete``: the answer's grammar allows nothing more.
        """
        self._tokens += 1
        if token in self._end_tokens:
            return self._last("", "stop")
        if self._recorder is not None:
            self._logprobs.add([self._recorder.entry(logits, token)])
        text = self._detokenizer.feed(token)
        if self._tokens > self._sampling.min_tokens:
            text = self._stops.feed(text)
        if self._stops.found or complete:
            return self._last(text, "stop")
        if self._tokens >= self._sampling.max_tokens:
            return self._last(text, "length")
        return self._output(text) if text else None

    def without_tokens(self) -> EngineOutput:
        """The only output of an answer that may have no token."""
        return self._last("", "length")

    def _last(self, text: str, reason: str) -> EngineOutput:
        if not self._stops.found:
            text += self._stops.feed(self._detokenizer.flush())
            # the rest of the text may complete a stop string that the last token left open
            reason = "stop" if self._stops.found else reason
            text += self._stops.flush()
        self.finished = True
        return self._output(text, reason)

    def _output(self, text: str, reason: str | None = None) -> EngineOutput:
        logprobs = self._logprobs.take(text)
        if reason is not None and not self._stops.found:
            logprobs += self._logprobs.rest()
        prompt, self.prompt_logprobs = self.prompt_logprobs, ()
        return EngineOutput(text, self._tokens, reason, self.cached_tokens, logprobs, prompt)
