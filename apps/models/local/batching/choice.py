"""Choosing the next token from one row of logits: greedy, or by temperature and top_p on the answer's own seed."""

import secrets
from typing import Any

import numpy as np

from apps.core.errors import InternalError
from apps.models.local.engine import Sampling


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
        weights = np.exp((logits - logits[likeliest]).astype(np.float64) / self._temperature)
        tokens = np.arange(len(weights))
        if self._top_p < 1:
            tokens = self._nucleus(weights)
            weights = weights[tokens]
        sums = np.cumsum(weights)
        return int(tokens[min(int(np.searchsorted(sums, self._random.random() * sums[-1], "right")), len(tokens) - 1)])

    def _nucleus(self, weights: Any) -> Any:
        """The smallest set of tokens whose probabilities reach top_p (Holtzman et al. 2020), likeliest first.

        Tokens below (1 - top_p) / vocabulary are not even sorted: together they stay below 1 - top_p.
        """
        total = float(weights.sum())
        candidates = np.flatnonzero(weights >= total * (1 - self._top_p) / len(weights))
        ordered = candidates[np.argsort(-weights[candidates], kind="stable")]
        before = np.cumsum(weights[ordered]) - weights[ordered]
        return ordered[: max(1, int(np.count_nonzero(before < self._top_p * total)))]
