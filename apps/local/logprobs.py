"""Log probabilities of generated tokens: of the model's own distribution, before constraint, temperature and top_p."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.core.deltas import TokenLogprob

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
