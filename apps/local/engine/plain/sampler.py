"""Choosing the next token by temperature and top_p, on the call's own seed.

`generate` samples from torch's global generator, which all threads share: the same seed would give another answer
whenever somebody else is being served. So `generate` is left greedy and this processor leaves it one choice only.
"""

import secrets
from typing import Any

from apps.local.engine.port import Sampling


class SeededSampler:
    """A logits processor of transformers: scores [1, vocabulary] in, all but the drawn token at minus infinity out.

    Probability is proportional to exp(score / temperature) within the smallest set of tokens whose probabilities
    reach ``top_p`` (Holtzman et al. 2020); that set always has the likeliest token in it.
    """

    def __init__(self, sampling: Sampling) -> None:
        import torch

        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**63
        self._torch = torch
        self._generator = torch.Generator().manual_seed(seed)
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        torch = self._torch
        scores = scores.float()
        # the greatest score becomes 0, so that a tiny temperature cannot overflow
        scaled = (scores - scores.max()) / self._temperature
        ordered, tokens = torch.softmax(scaled, dim=-1).sort(descending=True, dim=-1)
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.masked_fill((before >= self._top_p) & (before > 0), 0.0)
        drawn = tokens.gather(-1, torch.multinomial(ordered, 1, generator=self._generator))
        return torch.full_like(scores, float("-inf")).scatter(-1, drawn, 0.0)
