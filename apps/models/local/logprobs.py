"""Log probabilities of generated tokens: of the model's own distribution, before constraint, temperature and top_p."""

from collections.abc import Callable
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

    def see(self, logits: "NDArray[Any]") -> None:
        """The row of logits that the next token is chosen from."""
        import numpy as np

        shifted = logits.astype(np.float64) - logits.max()
        self._row = shifted - np.log(np.exp(shifted).sum())

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
        return TokenLogprob(raw.decode("utf-8", "replace"), raw, max(float(row[token]), LEAST), top)
