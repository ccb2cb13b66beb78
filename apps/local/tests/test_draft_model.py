"""A model that drafts: when it does, what it proposes, and that no answer depends on it."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from apps.core.settings import Settings
from apps.local.engine.batching.drafting import (
    MODEL_GRADE,
    MOST_DRAFTED,
    TRIED_AGAIN_AFTER,
    DraftModel,
    ModelDrafter,
    PromptLookup,
    StepTimes,
)
from apps.local.engine.batching.opening import Caches, Options, open_engine, open_step
from apps.local.engine.batching.scheduler import BatchingEngine
from apps.local.engine.batching.speculation import Speculation
from apps.local.engine.batching.step import WholeSequences
from apps.local.engine.kernel.native_step import BlockCache, BlockPool
from apps.local.engine.port import EngineOutput, Sampling
from apps.local.loading import LoadFailed, load_local
from apps.local.tokenizer import HubTokenizer
from apps.tests.support.kernels import kernels
from apps.tests.support.tiny_checkpoint import TinyTokenizer, write_tiny_checkpoint

pytestmark = pytest.mark.local


class Counting(WholeSequences):
    """A Step that says one token more than the last one; each call takes ``seconds`` of a clock of its own."""

    max_rows = 252
    rows_independent = True

    def __init__(self, seconds: float = 0.001) -> None:
        self.calls: list[int] = []
        self.now = 0.0
        self._seconds = seconds

    def new_cache(self) -> Any:
        return object()

    def copy_prefix(self, source: Any, target: Any, tokens: int) -> None: ...

    def read_block(self, cache: Any, start: int, stop: int) -> bytes:
        raise NotImplementedError

    def write_block(self, cache: Any, start: int, stop: int, values: Any) -> None:
        raise NotImplementedError

    def run(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any], wanted: Sequence[int]) -> Any:
        self.calls.append(len(tokens))
        self.now += self._seconds * max(1, len(tokens) / 12)
        logits = np.zeros((len(wanted), 100), np.float32)
        for row, at in enumerate(wanted):
            logits[row, tokens[at] + 1] = 20
        return logits

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


class Told:
    """An answer as far as a draft looks at it."""

    constraint = None
    tenant = ""

    def __init__(self, tokens: Sequence[int] = (), room: int = 200) -> None:
        self.tokens = list(tokens)
        self.room = room


def measured(row: float = 0.0) -> StepTimes:
    """A large model whose step takes a second, and ``row`` more for each row beside the first."""
    times = StepTimes()
    for rows in range(1, 17):
        times.learn(rows, 1 + row * (rows - 1))
    return times


def made(step: Counting, share: float = 0.05, context_length: int = 1000) -> DraftModel:
    return DraftModel(step, context_length, 100, 3, share, lambda: step.now)


def test_it_drafts_as_many_tokens_as_pay() -> None:
    model = made(Counting())
    model.plan(measured(), 1)
    usual = model.depth
    assert 0 < usual < MOST_DRAFTED
    model.plan(measured(row=0.2), 1)
    assert 0 < model.depth < usual
    model.plan(measured(row=1.0), 1)
    assert model.depth == 0
    for _ in range(100):
        model.learn(accepted=True)
    model.plan(measured(), 1)
    assert model.depth == MOST_DRAFTED


def test_it_drafts_less_beside_others_and_not_at_all_beside_many() -> None:
    model, times = made(Counting()), measured(row=0.02)
    depths = []
    for answers in (1, 2, 4, 8, 9, 16):
        model.plan(times, answers)
        depths.append(model.depth)
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > depths[2] > 0
    assert depths[-2:] == [0, 0]


def test_one_that_is_as_dear_as_the_large_model_does_not_draft() -> None:
    model = made(Counting(), share=1.0)
    model.plan(measured(), 1)
    assert model.depth == 0


def test_one_that_is_never_right_is_tried_now_and_then_and_drafts_again_once_it_is() -> None:
    model, times = made(Counting()), measured(row=0.2)
    for _ in range(200):
        model.learn(accepted=False)
    depths = []
    for _ in range(2 * TRIED_AGAIN_AFTER):
        model.plan(times, 1)
        depths.append(model.depth)
    assert depths.count(1) == 2 and depths.count(0) == len(depths) - 2
    for _ in range(100):
        model.learn(accepted=True)
    model.plan(times, 1)
    assert model.depth > 3


def test_it_says_its_likeliest_tokens_and_computes_none_of_them_twice() -> None:
    step = Counting()
    model, answer = made(step), Told()
    drafter = ModelDrafter(model, answer, PromptLookup())
    model.plan(measured(), 1)
    draft = drafter.propose([5, 9, 30], 4)
    assert (list(draft.tokens), set(draft.grades)) == ([31, 32, 33, 34], {MODEL_GRADE + 4})
    # two were right, then came another one: its keys and values, and those of 31 and 32, are kept
    step.calls.clear()
    model.plan(measured(), 1)
    assert list(drafter.propose([5, 9, 30, 31, 32, 70], 3).tokens) == [71, 72, 73]
    assert step.calls == [1, 1, 1]
    drafter.end()
    again = ModelDrafter(model, answer, PromptLookup())
    step.calls.clear()
    model.plan(measured(), 1)
    again.propose([5, 9, 30, 31, 40], 2)
    assert step.calls == [1, 1]


def test_a_long_prompt_is_caught_up_with_in_chunks_and_only_for_answers_that_are_long_enough() -> None:
    prompt = [number % 90 for number in range(500)]
    prompt = [*prompt, 91, 92]
    step = Counting()
    model = made(step)
    model.plan(measured(row=0.1), 1)
    assert not ModelDrafter(model, Told(room=1), PromptLookup()).propose(prompt, 1).tokens
    assert step.calls == []
    drafter = ModelDrafter(model, Told(), PromptLookup())
    drafts: list[int] = []
    while not drafts:
        model.plan(measured(row=0.1), 1)
        drafts = list(drafter.propose(prompt, 2).tokens)
        assert len(step.calls) < 100
    assert drafts == [93, 94]
    assert max(step.calls) <= 252 and sum(step.calls) == len(prompt) + 1


def test_a_long_match_needs_no_model_and_a_context_that_is_too_short_leaves_the_lookup() -> None:
    step = Counting()
    model = made(step, context_length=20)
    model.plan(measured(), 1)
    repeating = [*range(10), *range(8)]
    assert list(ModelDrafter(model, Told(), PromptLookup()).propose(repeating, 2).tokens) == [8, 9]
    assert list(ModelDrafter(model, Told(), PromptLookup()).propose([7, 8, *range(20, 40), 7, 8], 3).tokens) == [
        20,
        21,
        22,
    ]
    assert step.calls == []


def test_after_a_token_that_its_embedding_does_not_have_it_computes_nothing() -> None:
    step = Counting()
    model = DraftModel(step, 1000, 100, 3, 0.05, lambda: step.now, known=90)
    drafter = ModelDrafter(model, Told(), PromptLookup())
    model.plan(measured(), 1)
    assert list(drafter.propose([5, 9, 30], 2).tokens) == [31, 32]
    step.calls.clear()
    for tokens in ([5, 9, 30, 90], [5, 9, 30, 90, 7], [5, 9, 30, 95, 8, 5, 9]):
        model.plan(measured(), 1)
        drafted = list(drafter.propose(tokens, 2).tokens)
    # what the lookup finds is drafted as ever
    assert (step.calls, drafted) == ([], [30, 95])


# --- an answer that is interrupted


class Paged(Counting):
    """Takes blocks from a pool, and says the numbers from 10 to 89 round and round. Each step calls ``before``."""

    def __init__(self, blocks: int, before: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._pool = BlockPool(blocks, 64, 8)
        self._before = before

    def new_cache(self) -> BlockCache:
        return BlockCache(8)

    @property
    def free_blocks(self) -> int:  # type: ignore[override]
        return self._pool.free

    def blocks_for(self, tokens: int) -> int:
        return self._pool.blocks_for(tokens)

    def blocks_of(self, cache: BlockCache) -> int:
        return len(cache.blocks)

    def reserve(self, cache: BlockCache, tokens: int) -> bool:
        return self._pool.reserve(cache, tokens)

    def release(self, cache: BlockCache, tokens: int) -> None:
        self._pool.release(cache, tokens)

    def run(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any], wanted: Sequence[int]) -> Any:
        self._before()
        return super().run([(token - 9) % 80 + 9 for token in tokens], positions, caches, wanted)


async def test_an_answer_that_is_cancelled_while_it_waits_again_leaves_nothing_of_its_draft() -> None:
    asked, interrupted, cancelled = threading.Event(), threading.Event(), threading.Event()
    used: list[int] = []

    def before() -> None:
        assert asked.wait(60)
        if not cancelled.is_set() and engine.describe()["interrupted_answers"]:
            used.append(16 - model.caches.available_blocks())
            interrupted.set()
            assert cancelled.wait(60)

    small = Paged(16)
    model = DraftModel(small, 256, 100, 3, 0.05, lambda: small.now)
    tokenizer = cast(HubTokenizer, TinyTokenizer())
    engine = BatchingEngine(Paged(4, before), tokenizer, 256, 2, 4, {}, speculation(model))
    try:
        prompts = [*range(10, 70)], [*range(69, 9, -1)]
        first, second = [
            asyncio.create_task(said(engine, prompt, Sampling(0.0, 1.0, 170, 1, top_logprobs=1))) for prompt in prompts
        ]
        await asyncio.sleep(0)
        asked.set()
        assert await asyncio.to_thread(interrupted.wait, 60)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        cancelled.set()
        async with asyncio.timeout(60):
            assert [token for token, *_ in (await first)[1]] == [
                TinyTokenizer().token_bytes((60 + at) % 80 + 10) for at in range(170)
            ]
            # new answers may have the address of the one that is gone
            for number in range(3):
                text, _ = await said(engine, [number, 20], Sampling(0.0, 1.0, 3))
                assert text == TinyTokenizer().decode([21, 22, 23])
        assert engine.failure is None
    finally:
        engine.close()
    # the first one's draft was in use
    assert used[0] > 0
    assert model.caches.available_blocks() == 16


# --- no answer depends on it


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


# --- loading


def with_tokenizer(folder: Path, words: Sequence[str]) -> Path:
    """``folder`` with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": words[1], "chat_template": "{{ messages }}"})
    )
    return folder


WORDS = ["<unk>", "</s>", *(f"w{number}" for number in range(94))]


@pytest.fixture
def checkpoints(tmp_path: Path) -> dict[str, Path]:
    made = {"model": WORDS, "same": WORDS, "other": [*WORDS[:50], "else", *WORDS[51:]]}
    return {name: with_tokenizer(write_tiny_checkpoint(tmp_path / name), words) for name, words in made.items()}


def settings_of(checkpoints: dict[str, Path], tmp_path: Path, draft: str, **changes: Any) -> Settings:
    shutil.copytree(Settings().model_cache_dir / "kernels", tmp_path / "cache/kernels", dirs_exist_ok=True)
    return Settings(
        _env_file=None,
        local_model=str(checkpoints["model"]),
        local_draft=draft,
        model_cache_dir=tmp_path / "cache",
        **changes,
    )


def test_a_model_of_the_same_tokenizer_drafts(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    kernels()
    loaded = load_local(settings_of(checkpoints, tmp_path, str(checkpoints["same"])), lambda *_: None)
    try:
        assert loaded.engine.describe()["speculation"] == "prompt lookup, grammar, a model"
    finally:
        loaded.engine.close()


def test_without_speculation_there_is_none(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    kernels()
    same = str(checkpoints["same"])
    settings = settings_of(checkpoints, tmp_path, same, local_speculation="off")
    loaded = load_local(settings, lambda *_: None)
    try:
        assert loaded.engine.describe()["speculation"] == "off"
    finally:
        loaded.engine.close()


def test_another_tokenizer_or_no_checkpoint_is_said_and_nothing_is_served(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    kernels()
    with pytest.raises(LoadFailed, match=r"its tokenizer is another one \(1 of 96 tokens differ, '(else|w48)' \(50\)"):
        load_local(settings_of(checkpoints, tmp_path, str(checkpoints["other"])), lambda *_: None)
    with pytest.raises(LoadFailed, match="LOCAL_DRAFT"):
        load_local(settings_of(checkpoints, tmp_path, str(tmp_path / "nowhere")), lambda *_: None)
    (checkpoints["same"] / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    with pytest.raises(LoadFailed, match=r"LOCAL_DRAFT=.* cannot draft: BertModel is none of"):
        load_local(settings_of(checkpoints, tmp_path, str(checkpoints["same"])), lambda *_: None)
