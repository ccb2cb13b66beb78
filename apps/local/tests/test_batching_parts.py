"""The parts of the batching engine that need no model: choosing, caching prefixes, packing once, chunk sizes."""

import asyncio
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.core.errors import InternalError
from apps.local.engine.batching.answer import Mailbox
from apps.local.engine.batching.packed_cache import load_weights
from apps.local.engine.batching.prefix_cache import PrefixCache
from apps.local.engine.batching.shape import read_shape
from apps.local.engine.batching.step import LARGEST, SMALLEST, Chunking, WholeSequences
from apps.local.engine.kernel.library import dequantize, quantize
from apps.local.engine.port import EngineOutput
from apps.local.packaged import packaged_gguf
from apps.tests.support.kernels import packer

pytestmark = pytest.mark.local


class Memory(WholeSequences):
    """A Step that only keeps caches: each a list of what was copied into it."""

    max_rows = 8
    rows_independent = True

    def new_cache(self) -> list[str]:
        return []

    def copy_prefix(self, source: list[str], target: list[str], tokens: int) -> None:
        target.append(f"{tokens} copied")

    def read_block(self, cache: Any, start: int, stop: int) -> bytes:
        raise NotImplementedError

    def write_block(self, cache: Any, start: int, stop: int, values: Any) -> None:
        raise NotImplementedError

    def run(self, *_: Any) -> Any:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


def filled(cache: PrefixCache, tokens: list[int]) -> Any:
    held = cache.take(tokens)
    held.tokens = list(tokens)
    return held


def test_a_prompt_that_goes_on_takes_the_cache_over() -> None:
    cache = PrefixCache(Memory(), 3)
    first = filled(cache, [1, 2, 3, 4])
    cache.give_back(first)
    again = cache.take([1, 2, 3, 4, 5, 6])
    assert again is first
    assert again.tokens == [1, 2, 3, 4]


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    cache = PrefixCache(Memory(), 2)
    cache.give_back(filled(cache, [1, 2, 3]))
    assert cache.take([1, 2, 3]).tokens == [1, 2]


def test_a_cache_in_use_is_copied_not_taken() -> None:
    cache = PrefixCache(Memory(), 3)
    running = filled(cache, [1, 2, 3, 4])
    other = cache.take([1, 2, 9])
    assert other is not running
    assert (other.memory, other.tokens) == (["2 copied"], [1, 2])
    assert running.tokens == [1, 2, 3, 4]


def test_a_short_common_beginning_does_not_spoil_a_long_cache() -> None:
    cache = PrefixCache(Memory(), 3)
    long = filled(cache, list(range(100)))
    cache.give_back(long)
    assert cache.take([0, 1, 2, 500]) is not long
    assert len(long.tokens) == 100


def test_the_least_recently_used_is_given_up() -> None:
    cache = PrefixCache(Memory(), 3)
    held = [filled(cache, [number, 1, 2]) for number in (10, 20, 30)]
    for one in (held[1], held[0], held[2]):
        cache.give_back(one)
    assert cache.take([77, 1]) is held[1]
    assert cache.take([10, 1, 2, 3]) is held[0]


@pytest.mark.long
def test_blocks_of_the_packaged_file_are_not_quantized_twice() -> None:
    from gguf import GGMLQuantizationType, GGUFReader
    from gguf import dequantize as gguf_values

    tensors = [t for t in GGUFReader(packaged_gguf()).tensors if t.tensor_type == GGMLQuantizationType.Q4_1]
    for tensor in tensors[:: len(tensors) // 12]:
        values = gguf_values(tensor.data, tensor.tensor_type)
        again = dequantize(*quantize(values, 4))
        scale = np.abs(values).max()
        assert np.abs(again - values).max() <= 2e-7 * scale


def _pack(folder: Path, cache_dir: Path) -> None:
    load_weights(folder, read_shape(folder), "int4", cache_dir, packer(1))


@pytest.mark.long
def test_two_processes_may_pack_at_once(packaged: Path, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_pack, args=(packaged, tmp_path)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    files = list((tmp_path / "packed").iterdir())
    assert [file.suffix for file in files] == [".safetensors"]
    # and what they wrote is what safetensors itself reads
    from safetensors.numpy import load_file

    weights = load_weights(packaged, read_shape(packaged), "int4", tmp_path, packer())
    stored = load_file(files[0])
    assert stored.keys() == weights.packed.keys()
    assert all(np.array_equal(stored[name], weights.packed[name]) for name in list(stored)[:5])


@pytest.mark.long
def test_weights_are_packed_into_memory_where_nothing_can_be_written(packaged: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way of a folder")
    in_memory = load_weights(packaged, read_shape(packaged), "int4", blocked, packer())
    in_file = load_weights(packaged, read_shape(packaged), "int4", tmp_path, packer())
    assert all(np.array_equal(in_memory.packed[name], in_file.packed[name]) for name in in_file.packed)


def test_chunks_grow_and_shrink_with_the_measured_speed() -> None:
    quick, slow = Chunking(), Chunking()
    for _ in range(30):
        quick.learn(64, 0.01)
        slow.learn(64, 6.4)
    assert quick.rows(answers_running=True) == LARGEST
    assert slow.rows(answers_running=True) == SMALLEST
    assert Chunking().rows(answers_running=True) < Chunking().rows(answers_running=False)


async def test_a_mailbox_gives_its_pieces_in_order_and_tells_of_room() -> None:
    room: list[bool] = []
    box = Mailbox(lambda: room.append(True), capacity=2)
    for number in range(2):
        await asyncio.to_thread(box.put, EngineOutput(str(number), number))
    assert box.full
    assert [(await box.get()).text for _ in range(2)] == ["0", "1"]
    assert room == [True]
    waiting = asyncio.create_task(box.get())
    await asyncio.sleep(0)
    box.put(InternalError("wrong"))
    with pytest.raises(InternalError):
        await waiting
