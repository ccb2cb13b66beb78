"""Engines with a model that drafts, and what they answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from apps.local.engine.batching.drafting import (
    DraftModel,
    StepTimes,
)
from apps.local.engine.batching.opening import Caches, open_step
from apps.local.engine.batching.scheduler import BatchingEngine
from apps.local.engine.batching.speculation import Speculation
from apps.local.engine.port import EngineOutput, Sampling
from apps.local.tokenizer import HubTokenizer
from apps.tests.support.kernels import kernels
from apps.tests.support.tiny_checkpoint import TinyTokenizer


class FreeRows(StepTimes):
    """Steps of any number of rows take a second: everything that is proposed is checked."""

    def seconds(self, rows: int) -> float:
        return 1.0


def speculation(model: DraftModel | None = None) -> Speculation:
    found = Speculation(model)
    found.times = FreeRows()
    return found


def engine_of(folder: Path, drafting: Speculation | None, precision: str = "int4", slots: int = 4) -> BatchingEngine:
    step = open_step(folder, precision, folder.parent, kernels(), Caches(256), slots)
    return BatchingEngine(step, cast(HubTokenizer, TinyTokenizer()), 256, slots, slots + 2, {}, drafting)


async def said(engine: BatchingEngine, prompt: Sequence[int], sampling: Sampling) -> tuple[str, list[Any]]:
    """An answer's text, and its tokens with their log probabilities and the alternatives'."""
    text, found, piece = "", [], EngineOutput("", 0)
    async for piece in engine.generate(prompt, sampling):
        text += piece.text
        found += [(one.raw, one.logprob, tuple(other.logprob for other in one.top)) for one in piece.logprobs]
    return text, found


def calls(count: int) -> list[tuple[list[int], Sampling]]:
    random = np.random.default_rng(7)
    return [
        (
            random.integers(0, 96, int(random.integers(2, 60))).tolist(),
            Sampling([0.0, 0.0, 0.7][number % 3], 1.0, 30, number, top_logprobs=2),
        )
        for number in range(count)
    ]
