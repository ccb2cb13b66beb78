"""Choosing the next token from one row of logits: greedy, or by temperature and top_p on the answer's own seed."""

import secrets
from typing import Any

import numpy as np

from apps.core.errors import InternalError
from apps.local.engine.port import Sampling


class TokenChoice:
    """One answer's. What it draws depends on its seed and its own logits only, whoever else is being served."""

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._random = np.random.default_rng(secrets.randbits(63) if sampling.seed is None else abs(sampling.seed))

    def choose(self, logits: Any) -> int:
        """``logits`` float32 [vocabulary]. Raises InternalError where they are not numbers."""
        likeliest = int(logits.argmax())
        # argmax finds a NaN before any number
        if not np.isfinite(logits[likeliest]):
            raise InternalError("The local model computed something that is not a number")
        if self._temperature <= 0:
            return likeliest
        # float32 takes a tenth of the time of float64; only sums need more
        weights = np.exp((logits - logits[likeliest]) / np.float32(self._temperature))
        total = float(weights.sum(dtype=np.float64))
        if self._top_p < 1:
            tokens = self._nucleus(weights, total)
            sums = np.cumsum(weights[tokens], dtype=np.float64)
            return int(tokens[self._drawn(sums)])
        return self._drawn(np.cumsum(weights, dtype=np.float64))

    def _drawn(self, sums: Any) -> int:
        return min(int(np.searchsorted(sums, self._random.random() * sums[-1], "right")), len(sums) - 1)

    def _nucleus(self, weights: Any, total: float) -> Any:
        """The smallest set of tokens whose probabilities reach top_p (Holtzman et al. 2020), likeliest first.

        Tokens below (1 - top_p) / vocabulary are not even sorted: together they stay below 1 - top_p.
        """
        candidates = np.flatnonzero(weights >= np.float32(total * (1 - self._top_p) / len(weights)))
        ordered = candidates[np.argsort(-weights[candidates], kind="stable")]
        sorted_weights = weights[ordered].astype(np.float64)
        before = np.cumsum(sorted_weights) - sorted_weights
        return ordered[: max(1, int(np.count_nonzero(before < self._top_p * total)))]
