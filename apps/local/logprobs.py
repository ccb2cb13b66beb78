"""Log probabilities of generated tokens: of the model's own distribution, before constraint, temperature and top_p."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from apps.core.deltas import TokenLogprob

if TYPE_CHECKING:
    from numpy.typing import NDArray

# what OpenAI's API says for a probability too small to say
LEAST = -9999.0


class LogprobRecorder:
    """``top`` alternatives a token, 0 to 20; ``token_bytes`` spells a token. One recorder an answer."""

    def __init__(self, top: int, token_bytes: Callable[[int], bytes]) -> None:
        self._top = top
        self._token_bytes = token_bytes
        self._row: NDArray[Any] | None = None
        self._total = 0.0

    def see(self, logits: "NDArray[Any]") -> None:
        """The row of logits that the next token is chosen from; it must not change before ``entry``."""
        import numpy as np

        # float32 takes a sixth of the time of float64; only the sum needs more
        most = float(logits.max())
        self._row, self._total = logits, most + math.log(float(np.exp(logits - most).sum(dtype=np.float64)))

    def entry(self, token: int) -> TokenLogprob:
        """Of the token that was chosen from what ``see`` saw last."""
        row = self._row
        assert row is not None  # noqa: S101 - for the type checker: every token is chosen from logits
        return self._entry(row, token, tuple(self._entry(row, other) for other in self._likeliest(row)))

    def _likeliest(self, row: "NDArray[Any]") -> list[int]:
        if self._top == 0:
            return []
        top = min(self._top, len(row))
        tokens: list[int] = row.argpartition(len(row) - top)[-top:].tolist()
        return sorted(tokens, key=lambda token: (-row[token], token))

    def _entry(self, row: "NDArray[Any]", token: int, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = self._token_bytes(token)
        return TokenLogprob(
            raw.decode("utf-8", "replace"), raw, max(min(float(row[token]) - self._total, 0.0), LEAST), top
        )


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
