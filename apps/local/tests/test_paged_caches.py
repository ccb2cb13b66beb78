"""Keys and values in blocks that sequences share, in int8 too: no answer depends on how many blocks there are."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from apps.local.engine.batching.drafting import StepTimes
from apps.local.engine.batching.opening import Caches, open_step
from apps.local.engine.batching.prefix_cache import PrefixCache, PrefixStore
from apps.local.engine.batching.scheduler import BatchingEngine
from apps.local.engine.batching.speculation import Speculation
from apps.local.engine.kernel.native_step import BlockCache, BlockPool, NativeStep
from apps.local.engine.port import Sampling
from apps.local.tokenizer import HubTokenizer
from apps.tests.support.kernels import kernels
from apps.tests.support.tiny_checkpoint import TinyTokenizer, write_tiny_checkpoint

pytestmark = pytest.mark.local

BLOCK = 64
TOKENS = [at * 37 % 96 for at in range(250)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


def step_of(folder: Path, blocks: int, cache_type: str | None = None) -> NativeStep:
    return open_step(folder, "int4", folder.parent, kernels(), Caches(256, blocks * BLOCK, cache_type), 4)


def test_blocks_are_taken_as_a_sequence_grows_and_come_back() -> None:
    pool = BlockPool(3, BLOCK, 128)
    one, other = BlockCache(4), BlockCache(4)
    assert pool.reserve(one, 0) and pool.free == 3
    assert pool.reserve(one, 65) and len(one.blocks) == 2
    assert not pool.reserve(other, 65) and other.blocks == []
    assert pool.reserve(other, 64) and pool.free == 0
    assert [int(address) for address in one.table[:2]] == [pool.memory[block].ctypes.data for block in one.blocks]
    pool.release(one, 64)
    assert len(one.blocks) == 1 and pool.free == 1
    pool.release(one, 0)
    pool.release(other, 0)
    assert pool.free == 3 and len({*one.blocks, *other.blocks}) == 0


def test_a_step_without_blocks_says_so(tiny: Path) -> None:
    step = step_of(tiny, 1)
    cache = step.new_cache()
    step.run(TOKENS[:64], range(64), [cache] * 64, [])
    with pytest.raises(MemoryError, match="blocks"):
        step.run(TOKENS[64:65], [64], [cache], [0])
    step.close()


@pytest.mark.parametrize("cache_type", ["float16", "int8"])
def test_what_is_copied_and_what_is_read_has_the_same_bits(tiny: Path, cache_type: str) -> None:
    step = step_of(tiny, 16, cache_type)
    first, copied, written = (step.new_cache() for _ in range(3))
    step.run(TOKENS[:200], range(200), [first] * 200, [])
    step.copy_prefix(first, copied, 150)
    for start in range(0, 160, 32):
        step.write_block(written, start, start + 32, step.read_block(first, start, start + 32))
    found = [step.run(TOKENS[150:152], [150, 151], [cache] * 2, [0, 1]) for cache in (first, copied, written)]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    step.close()


def test_int8_keys_and_values_are_near_and_a_row_has_the_bits_it_has_alone(tiny: Path) -> None:
    exact, step = step_of(tiny, 16), step_of(tiny, 16, "int8")
    whole, pieces = step.new_cache(), step.new_cache()
    got = step.run(TOKENS[:200], range(200), [whole] * 200, range(200))
    expected = exact.run(TOKENS[:200], range(200), [exact.new_cache()] * 200, range(200))
    # made-up weights attend to everything: real ones are nearer, which eval/local_quality.py measures
    assert 0 < np.linalg.norm(got - expected) < 0.1 * np.linalg.norm(expected)
    apart = []
    for start, stop in ((0, 1), (1, 70), (70, 71), (71, 199), (199, 200)):
        apart.append(step.run(TOKENS[start:stop], range(start, stop), [pieces] * (stop - start), range(stop - start)))
    assert np.array_equal(np.concatenate(apart), got)
    assert step.describe()["cache_type"] == "int8"
    step.close()
    exact.close()


def test_idle_sequences_give_their_blocks_the_oldest_first(tiny: Path) -> None:
    step = step_of(tiny, 4)
    cache = PrefixCache(step, 4)
    for start in (0, 100):
        held = cache.take(TOKENS[start : start + 60])
        assert cache.ensure(held, 60)
        held.tokens = TOKENS[start : start + 60]
        cache.give_back(held)
    busy = cache.take(TOKENS[200:230])
    assert cache.available_blocks() == 4
    assert cache.ensure(busy, 190)
    assert cache.longest(TOKENS[:60], "") == 0
    assert cache.longest(TOKENS[100:160], "") == 59
    assert not cache.ensure(busy, 300)
    step.close()


# --- no answer depends on it


class FreeRows(StepTimes):
    """Everything that is proposed is checked."""

    def seconds(self, rows: int) -> float:
        return 1.0


def engine_of(
    folder: Path,
    blocks: int,
    cache_type: str | None = None,
    drafting: bool = False,
    slots: int = 4,
    store: PrefixStore | None = None,
) -> BatchingEngine:
    speculation = Speculation() if drafting else None
    if speculation is not None:
        speculation.times = FreeRows()
    step, tokenizer = step_of(folder, blocks, cache_type), cast(HubTokenizer, TinyTokenizer())
    return BatchingEngine(step, tokenizer, 256, slots, slots + 2, {}, speculation, store)


async def said(engine: BatchingEngine, prompt: Sequence[int], sampling: Sampling) -> list[Any]:
    """An answer's tokens with their log probabilities and the alternatives', and the prompt's."""
    found: list[Any] = []
    async for piece in engine.generate(prompt, sampling):
        ones = [*piece.prompt_logprobs, *piece.logprobs]
        found += [(one.raw, one.logprob, tuple(other.logprob for other in one.top)) for one in ones]
    return found


def calls(count: int) -> list[tuple[list[int], Sampling]]:
    """Prompts of one to three blocks, whose answers need another one or two."""
    return [
        (
            TOKENS[number : number + 30 + number * 53 % 120],
            Sampling(
                [0.0, 0.8][number % 2], 1.0, 80, number, top_logprobs=1, prompt_logprobs=1 if number % 5 == 0 else None
            ),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("cache_type", "drafting", "count"),
    [
        ("float16", False, 3),
        pytest.param("float16", True, 12, marks=pytest.mark.long),
        pytest.param("int8", False, 12, marks=pytest.mark.long),
        pytest.param("int8", True, 12, marks=pytest.mark.long),
    ],
)
async def test_answers_that_must_wait_for_one_another_s_blocks_have_the_bits_they_have_alone(
    tiny: Path, cache_type: str, drafting: bool, count: int
) -> None:
    plenty, tight = engine_of(tiny, 40, cache_type), engine_of(tiny, 5, cache_type, drafting)
    try:
        asked = calls(count)
        alone = [await said(plenty, *call) for call in asked]
        async with asyncio.timeout(200):
            assert await asyncio.gather(*[said(tight, *call) for call in asked]) == alone
        assert tight.describe()["interrupted_answers"] > 0
        assert plenty.describe()["interrupted_answers"] == 0
    finally:
        plenty.close()
        tight.close()


async def test_a_long_prompt_that_waits_for_room_is_not_overtaken(tiny: Path) -> None:
    engine, order = engine_of(tiny, 4), []

    async def ask(name: str, prompt: list[int], tokens: int) -> None:
        await said(engine, prompt, Sampling(0.0, 1.0, tokens))
        order.append(name)

    try:
        stream = engine.generate(TOKENS[:100], Sampling(0.0, 1.0, 20))
        await anext(stream)
        waiting = [asyncio.create_task(ask("long", TOKENS[5:240], 1))]
        await asyncio.sleep(0)
        waiting.append(asyncio.create_task(ask("short", [1, 2, 3], 1)))
        async with asyncio.timeout(100):
            async for _ in stream:
                pass
            await asyncio.gather(*waiting)
        assert order == ["long", "short"]
    finally:
        engine.close()


@pytest.mark.long
async def test_int8_prefixes_come_back_from_disk_with_the_bits_that_were_computed(tiny: Path, tmp_path: Path) -> None:
    prompt, sampling = TOKENS[:150], Sampling(0.0, 1.0, 20, top_logprobs=1)
    found = []
    for _ in range(2):
        engine = engine_of(tiny, 20, "int8", store=PrefixStore(tmp_path, "int8", 1 << 24))
        found.append(await said(engine, prompt, sampling))
        found.append([(await anext(engine.generate(prompt, sampling))).cached_tokens])
        engine.close()
    assert found[0] == found[2]
    # all blocks but the last token's: from memory the first time, from disk the second
    assert (found[1], found[3]) == ([149], [149])
