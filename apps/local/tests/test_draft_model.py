"""A model that drafts: when it does, what it proposes, and what it leaves behind."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from apps.local.engine.batching.drafting import (
    MODEL_GRADE,
    MOST_DRAFTED,
    TRIED_AGAIN_AFTER,
    DraftModel,
    ModelDrafter,
    PromptLookup,
    StepTimes,
)
from apps.local.engine.batching.scheduler import BatchingEngine
from apps.local.engine.batching.step import WholeSequences
from apps.local.engine.kernel.native_step import BlockCache, BlockPool, PooledBlocks
from apps.local.engine.port import Sampling
from apps.local.tests.drafts import said, speculation
from apps.local.tokenizer import HubTokenizer
from apps.tests.support.tiny_checkpoint import TinyTokenizer

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


class Paged(PooledBlocks, Counting):  # type: ignore[override]
    """Takes blocks from a pool, and says the numbers from 10 to 89 round and round. Each step calls ``before``."""

    def __init__(self, blocks: int, before: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._pool = BlockPool(blocks, 64, 8)
        self._before = before

    def new_cache(self) -> BlockCache:
        return BlockCache(8)

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
