"""Answers with a model that drafts: the same bits as without it, whatever the draft is."""

import asyncio
import shutil
from pathlib import Path
from typing import cast

import pytest

from apps.core.settings import Settings
from apps.local.engine.batching.drafting import (
    DraftModel,
)
from apps.local.engine.batching.opening import Caches, Options, open_engine, open_step
from apps.local.engine.port import Sampling
from apps.local.tests.drafts import calls, engine_of, said, speculation
from apps.local.tokenizer import HubTokenizer
from apps.tests.support.kernels import kernels
from apps.tests.support.tiny_checkpoint import TinyTokenizer, write_tiny_checkpoint

pytestmark = pytest.mark.local


@pytest.mark.parametrize(
    ("drafts", "count"),
    [
        ("a smaller one", 2),
        pytest.param("a smaller one", 12, marks=pytest.mark.long),
        pytest.param("itself", 12, marks=pytest.mark.long),
    ],
)
async def test_answers_and_their_log_probabilities_have_the_same_bits_with_a_model_that_drafts(
    drafts: str, count: int, tmp_path: Path
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    small = folder if drafts == "itself" else write_tiny_checkpoint(tmp_path / "small", 5, num_hidden_layers=1)
    step = open_step(small, "int4", tmp_path, kernels(), Caches(256), 4)
    plain, drafting = engine_of(folder, None), engine_of(folder, speculation(DraftModel(step, 256, 96, 6, 0.01)))
    try:
        asked = calls(count)
        alone = [await said(plain, *call) for call in asked]
        assert [await said(drafting, *call) for call in asked] == alone
        told = drafting.describe()
        assert await asyncio.gather(*[said(drafting, *call) for call in asked]) == alone
    finally:
        plain.close()
        drafting.close()
    assert told["speculation"] == "prompt lookup, grammar, a model"
    if drafts == "itself":
        # the same arithmetic: every greedy token is the drafted one
        assert told["accepted_tokens"] > 0.6 * told["drafted_tokens"]
    else:
        assert told["accepted_tokens"] < 0.5 * told["drafted_tokens"]


@pytest.mark.long
async def test_the_packaged_model_answers_the_same_with_itself_as_its_draft(
    packaged: Path, tokenizer: HubTokenizer
) -> None:
    cache_dir = Settings().model_cache_dir
    prompt = tokenizer.encode("A recipe for bread: take")
    answers = []
    for draft in (None, packaged):
        engine = open_engine(packaged, tokenizer, "int4", 2, cache_dir, Options(draft=draft))
        try:
            greedy = Sampling(0.0, 1.0, 100, top_logprobs=1)
            drawn = Sampling(0.9, 0.95, 100, 11, top_logprobs=1)
            answers.append([await said(engine, prompt, sampling) for sampling in (greedy, drawn)])
            told = engine.describe()
        finally:
            engine.close()
    assert answers[0] == answers[1]
    assert told["speculation"] == "prompt lookup, grammar, a model"


async def test_tokens_that_the_draft_has_no_rows_for_are_no_fault(tmp_path: Path) -> None:
    kernels()
    shutil.copytree(Settings().model_cache_dir / "kernels", tmp_path / "cache/kernels")
    folder = write_tiny_checkpoint(tmp_path / "model", vocab_size=128, num_hidden_layers=8)
    small = write_tiny_checkpoint(tmp_path / "small", 5, num_hidden_layers=1)
    tokenizer = cast(HubTokenizer, TinyTokenizer())
    padding = Sampling(0.0, 1.0, 8, logit_bias={100: 100.0}, top_logprobs=1)
    calls = [([5, 100, 9], Sampling(0.0, 1.0, 8, top_logprobs=1)), ([5, 6, 9], padding)]
    answers = []
    for draft in (None, small):
        engine = open_engine(folder, tokenizer, "int4", 2, tmp_path / "cache", Options(draft=draft))
        try:
            answers.append([await said(engine, *call) for call in calls])
            assert engine.failure is None
        finally:
            engine.close()
    assert answers[0] == answers[1]
    assert answers[1][1][0] == TinyTokenizer().decode([100] * 8)
