"""Decoding in both engines: an answer's next token is chosen from its row of logits, and tokens become its output.

The sampler's order is transformers': bias, repetition penalty, what may not come, temperature, top_k, top_p, min_p.
OpenAI's frequency and presence penalties come after the repetition penalty, as in vLLM. What may not come is left out
in the order grammar, allowed tokens, bad words, end of thoughts, end tokens. The output is text, log probabilities, and
why it ended. Log probabilities are those of the model's own distribution, before constraint, temperature and top_p.
"""

import math
import secrets
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.core.deltas import TokenLogprob
from apps.core.errors import InternalError, InvalidValue
from apps.local.detokenizer import Detokenizer, PendingLogprobs, StopStrings
from apps.local.engine.port import EngineOutput, Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEVER = np.float32("-inf")


class Sampler:
    """One answer's. What it draws depends on its seed and its own logits, never on other answers of the batch.

    ``uniform`` draws numbers in [0, 1) in place of the seed's generator.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int] = (),
        end_tokens: Collection[int] = (),
        uniform: Callable[[], float] | None = None,
    ) -> None:
        self._sampling = sampling
        self._end_tokens = frozenset(end_tokens) | sampling.stop_tokens
        # a caller's own stop tokens are not ignored with the model's ends
        self._model_ends, self._all_ends = _tokens({*end_tokens} - sampling.stop_tokens), _tokens(self._end_tokens)
        self._allowed = _tokens(sampling.allowed_tokens)
        self._banned = _BannedSequences(sampling.bad_sequences)
        self._bias = _Bias(list(sampling.logit_bias), list(sampling.logit_bias.values()))
        self._seen: set[int] = set(prompt) if sampling.repetition_penalty != 1 else set()
        self._counts: Counter[int] = Counter()
        self._chosen = 0
        seed = secrets.randbits(63) if sampling.seed is None else abs(sampling.seed)
        self._uniform = uniform or np.random.default_rng(seed).random

    @property
    def finished(self) -> bool:
        """The grammar of the answer is complete and nothing can follow."""
        constraint = self._sampling.constraint
        return constraint is not None and constraint.finished

    def choose(self, logits: "NDArray[Any]") -> int:
        """The next token. ``logits`` is a float32 row [vocabulary] and stays as it is.

        Raises InternalError where a logit is not finite, InvalidValue where the grammar grew beyond its limits.
        """
        token = self.draw(logits)
        self.advance(token)
        return token

    def draw(self, logits: "NDArray[Any]") -> int:
        """A token for the next position; the answer does not move on. Raises as ``choose``."""
        low, high = float(logits.min()), float(logits.max())
        # both are NaN where any logit is
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InternalError("The local model computed logits that are not finite", details={"cause": "logits"})
        return self._pick(self._processed(logits))

    def advance(self, token: int) -> None:
        """Makes ``token`` the answer's next one."""
        self._chosen += 1
        sampling = self._sampling
        if sampling.repetition_penalty != 1:
            self._seen.add(token)
        if sampling.frequency_penalty or sampling.presence_penalty:
            self._counts[token] += 1
        self._banned.advance(token)
        if sampling.constraint is not None and token not in self._end_tokens:
            sampling.constraint.advance(token)
        if sampling.thinking is not None:
            sampling.thinking.advance(token)

    def _processed(self, logits: "NDArray[Any]") -> "NDArray[Any]":
        """The row that the token is chosen from; the logits themselves where nothing changes them."""
        sampling = self._sampling
        row = logits
        if sampling.logit_bias or self._seen or self._counts:
            row = logits.copy()
            self._bias.add(row)
            self._penalize_repetition(row)
            self._penalize_counts(row)
        if sampling.constraint is not None:
            row = masked(row, sampling.constraint.allowed(sampling.max_tokens - self._chosen))
        if len(self._allowed):
            row = _without(row, self._allowed, "allowed_token_ids", all_others=True)
        if sampling.bad_sequences and len(banned := self._banned.now()):
            row = _without(row, banned, "bad_words")
        if sampling.thinking is not None and (due := sampling.thinking.due()) is not None:
            row = _without(row, _tokens([due]), all_others=True)
        if self._chosen < sampling.min_tokens and len(self._all_ends):
            row = _without(row, self._all_ends)
        elif sampling.ignore_eos and len(self._model_ends):
            row = _without(row, self._model_ends)
        return row

    def _penalize_repetition(self, row: "NDArray[Any]") -> None:
        """Keskar et al. 2019: a positive logit is divided by the penalty, a negative one multiplied."""
        at = _within(self._seen, row)
        values = row[at]
        penalty = np.float32(self._sampling.repetition_penalty)
        row[at] = np.where(values < 0, values * penalty, values / penalty)

    def _penalize_counts(self, row: "NDArray[Any]") -> None:
        at = _within(self._counts, row)
        counts = np.array([self._counts[token] for token in at.tolist()], np.float32)
        row[at] -= counts * np.float32(self._sampling.frequency_penalty) + np.float32(self._sampling.presence_penalty)

    def _pick(self, row: "NDArray[Any]") -> int:
        sampling = self._sampling
        likeliest = int(row.argmax())
        if sampling.temperature <= 0 or sampling.top_k == 1:
            return likeliest
        # the greatest becomes 1, so that a tiny temperature cannot overflow; float32 takes a tenth of the time of
        # float64, and only sums need more
        weights = np.exp((row - row[likeliest]) / np.float32(sampling.temperature))
        least = np.float32(sampling.min_p)
        if 0 < sampling.top_k < len(weights):
            kth = np.partition(weights, len(weights) - sampling.top_k)[len(weights) - sampling.top_k]
            # tokens that are as likely as the last one stay too, as in transformers
            weights = np.where(weights >= kth, weights, np.float32(0))
        if sampling.top_p < 1:
            tokens = _nucleus(weights, sampling.top_p)
            kept = weights[tokens]
            kept = kept[: max(1, int(np.count_nonzero(kept >= least)))]
            return int(tokens[self._drawn(np.cumsum(kept, dtype=np.float64))])
        if least > 0:
            weights = np.where(weights >= least, weights, np.float32(0))
        return self._drawn(np.cumsum(weights, dtype=np.float64))

    def _drawn(self, sums: "NDArray[Any]") -> int:
        return min(int(np.searchsorted(sums, self._uniform() * sums[-1], "right")), len(sums) - 1)


class _BannedSequences:
    """Which tokens would complete one of the ``sequences`` of an answer's tokens."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self._sequences = [tuple(sequence) for sequence in sequences]
        self._last: deque[int] = deque(maxlen=max((len(sequence) - 1 for sequence in sequences), default=0))

    def advance(self, token: int) -> None:
        self._last.append(token)

    def now(self) -> "NDArray[Any]":
        last = tuple(self._last)
        return _tokens({one[-1] for one in self._sequences if _ends_with(last, one[:-1])})


def _ends_with(tokens: Sequence[int], end: Sequence[int]) -> bool:
    return len(end) <= len(tokens) and tokens[len(tokens) - len(end) :] == end


class _Bias:
    """``values`` that are added to the logits of ``tokens``."""

    def __init__(self, tokens: Sequence[int], values: Sequence[float]) -> None:
        self._tokens = np.array(tokens, np.int64)
        self._values = np.array(values, np.float32)

    def add(self, row: "NDArray[Any]") -> None:
        within = self._tokens < len(row)
        row[self._tokens[within]] += self._values[within]


def masked(logits: "NDArray[Any]", allowed: "NDArray[Any]") -> "NDArray[Any]":
    """A copy with minus infinity for every token that is not allowed.

    Rows are often padded beyond the tokenizer's vocabulary: what lies there is not allowed.
    """
    row = np.full_like(logits, NEVER)
    length = min(len(allowed), len(logits))
    np.copyto(row[:length], logits[:length], where=allowed[:length])
    return row


def _tokens(tokens: Collection[int]) -> "NDArray[Any]":
    return np.array(sorted(tokens), np.int64)


def _without(
    row: "NDArray[Any]", tokens: "NDArray[Any]", field: str | None = None, *, all_others: bool = False
) -> "NDArray[Any]":
    """The row without ``tokens``, or without all others.

    Where nothing would be left the row stays, or that is the fault of the request's ``field``: raises InvalidValue.
    """
    within = tokens[tokens < len(row)]
    if all_others:
        rest = np.full_like(row, NEVER)
        rest[within] = row[within]
    else:
        rest = row.copy()
        rest[within] = NEVER
    if np.isfinite(rest.max()):
        return rest
    if field is None:
        return row
    raise InvalidValue(f"{field.replace('_', ' ').capitalize()} leave no token that may come next", field=field)


def _within(tokens: Collection[int], row: "NDArray[Any]") -> "NDArray[Any]":
    """``tokens`` without those that the row has no logit of."""
    at = np.fromiter(tokens, np.int64, len(tokens))
    return at[at < len(row)]


def _nucleus(weights: "NDArray[Any]", top_p: float) -> "NDArray[Any]":
    """The smallest set of tokens whose probabilities reach ``top_p`` (Holtzman et al. 2020), likeliest first.

    Tokens below (1 - top_p) / vocabulary are not even sorted: together they stay below 1 - top_p.
    """
    total = float(weights.sum(dtype=np.float64))
    candidates = np.flatnonzero(weights >= np.float32(total * (1 - top_p) / len(weights)))
    ordered = candidates[np.argsort(-weights[candidates], kind="stable")]
    sorted_weights = weights[ordered].astype(np.float64)
    before = np.cumsum(sorted_weights) - sorted_weights
    return ordered[: max(1, int(np.count_nonzero(before < top_p * total)))]


# what OpenAI's API says for a probability too small to say
LEAST = -9999.0


class LogprobRecorder:
    """``top`` alternatives a token, 0 to 20; ``token_bytes`` gives a token's bytes. Keeps nothing of an answer.

    Where there are ``scored`` tokens, the alternatives are those and the chosen one.
    """

    def __init__(self, top: int, token_bytes: Callable[[int], bytes], scored: Sequence[int] = ()) -> None:
        self._top = top
        self._scored = scored
        self._token_bytes = token_bytes

    def entry(self, logits: "NDArray[Any]", token: int, *, ranked: bool = False) -> TokenLogprob:
        """Of ``token``, which was chosen from the float32 row ``logits``; ``ranked``: with its rank."""
        # float32 takes a sixth of the time of float64; only the sum needs more
        most = float(logits.max())
        total = most + math.log(float(np.exp(logits - most).sum(dtype=np.float64)))
        top = tuple(self._entry(logits, total, other) for other in self._alternatives(logits, token))
        chosen = self._entry(logits, total, token, top)
        return replace(chosen, rank=1 + int(np.count_nonzero(logits > logits[token]))) if ranked else chosen

    def first(self, token: int) -> TokenLogprob:
        """Of a prompt's first token, which was chosen from nothing."""
        raw = self._token_bytes(token)
        return TokenLogprob(raw.decode("utf-8", "replace"), raw, None, id=token)

    def _alternatives(self, row: "NDArray[Any]", token: int) -> list[int]:
        if self._scored:
            tokens = [*{token, *(other for other in self._scored if other < len(row))}]
        elif self._top == 0:
            return []
        else:
            top = min(self._top, len(row))
            tokens = row.argpartition(len(row) - top)[-top:].tolist()
        return sorted(tokens, key=lambda token: (-row[token], token))

    def _entry(self, row: "NDArray[Any]", total: float, token: int, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = self._token_bytes(token)
        logprob = max(min(float(row[token]) - total, 0.0), LEAST)
        return TokenLogprob(raw.decode("utf-8", "replace"), raw, logprob, top, token)


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
        self._end_tokens = end_tokens | sampling.stop_tokens
        self._sampling = sampling
        self._detokenizer = Detokenizer(decode)
        self._stops = StopStrings(sampling.stop)
        self._tokens = 0
        self._untold: list[int] = []
        self._stop_token: int | None = None
        top, scored = sampling.top_logprobs, sampling.scored_tokens
        self._recorder = None if top is None else LogprobRecorder(top, token_bytes, scored)
        self._logprobs = PendingLogprobs()

    def take(self, token: int, logits: "NDArray[Any]", complete: bool = False) -> EngineOutput | None:
        """What became certain with ``token``, which was chosen from ``logits``; None where nothing did.

        ``complete``: the answer's grammar allows nothing more.
        """
        self._tokens += 1
        self._untold.append(token)
        ends = token in self._end_tokens
        if self._recorder is not None and (not ends or self._sampling.end_logprob):
            self._logprobs.add([self._recorder.entry(logits, token)])
        if ends:
            self._stop_token = token if token in self._sampling.stop_tokens else None
            return self._last("", "stop")
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
        tokens, self._untold = tuple(self._untold), []
        stopped_by = None if reason is None else self._stops.found or self._stop_token
        return EngineOutput(text, self._tokens, reason, self.cached_tokens, logprobs, prompt, tokens, stopped_by)
