"""The batching engine on real weights: what it answers, and that nobody's answer depends on who else is served."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from apps.core.errors import ModelUnavailable
from apps.core.messages import user_message
from apps.core.settings import Settings
from apps.local.engine.batching.answer import CAPACITY
from apps.local.engine.batching.opening import open_engine
from apps.local.engine.batching.scheduler import BatchingEngine
from apps.local.engine.kernel.build import AVX2, cpu_flags
from apps.local.engine.port import EngineOutput, Sampling
from apps.local.tokenizer import HubTokenizer

pytestmark = [
    pytest.mark.local,
    pytest.mark.skipif(not AVX2.needs <= cpu_flags(), reason="the kernels need AVX2, FMA and F16C"),
]

SLOTS = 4
EXACT_TOKENS = 16
SYSTEM = "You are a patient teacher who explains things to children in short sentences. "
QUESTIONS = [
    "What is Python?",
    SYSTEM + "Why is the sky blue?",
    SYSTEM + "Why is the sea salt?",
    "Count from one to ten.",
    "Write a poem about the rain: 雨が降る",
    SYSTEM + "Why is the sky blue at noon and red in the evening?",
]


@pytest.fixture(scope="module", params=["fp32", "int4"])
def engine(request: pytest.FixtureRequest, packaged: Path, tokenizer: HubTokenizer) -> Iterator[BatchingEngine]:
    engine = open_engine(packaged, tokenizer, request.param, SLOTS, Settings().model_cache_dir)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def quick(packaged: Path, tokenizer: HubTokenizer) -> Iterator[BatchingEngine]:
    """The int4 engine, for what does not depend on precision."""
    engine = open_engine(packaged, tokenizer, "int4", SLOTS, Settings().model_cache_dir)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def prompts(tokenizer: HubTokenizer) -> list[list[int]]:
    return [tokenizer.encode_chat(user_message(question)) for question in QUESTIONS]


def greedy(tokens: int, stop: tuple[str, ...] = ()) -> Sampling:
    return Sampling(0, 1, tokens, None, stop)


async def pieces(engine: BatchingEngine, prompt: Sequence[int], sampling: Sampling) -> list[EngineOutput]:
    return [piece async for piece in engine.generate(prompt, sampling)]


async def text(engine: BatchingEngine, prompt: Sequence[int], sampling: Sampling) -> str:
    return "".join(piece.text for piece in await pieces(engine, prompt, sampling))


async def until(condition: Any, seconds: float = 120) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - there is no event for what another thread has come to
            await asyncio.sleep(0.01)


def generated(folder: Path, prompts: Sequence[Sequence[int]], tokenizer: HubTokenizer, tokens: int) -> list[str]:
    """The greedy answers of transformers' own generate, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    answers = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        answers.append(tokenizer.decode(out[0, ids.shape[1] :].tolist()))
    return answers


@pytest.mark.long
async def test_exact_greedy_answers_are_those_of_generate_alone_and_in_a_moving_crowd(
    packaged: Path, tokenizer: HubTokenizer, prompts: list[list[int]]
) -> None:
    expected = generated(packaged, prompts, tokenizer, EXACT_TOKENS)
    engine = open_engine(packaged, tokenizer, "fp32", SLOTS, Settings().model_cache_dir)
    try:
        assert [await text(engine, prompt, greedy(EXACT_TOKENS)) for prompt in prompts] == expected

        # more callers than slots, of unequal length, some of which go away: prefixes are cached, copied, given up
        async def leave(prompt: list[int]) -> None:
            async for _ in (stream := engine.generate(prompt[:-3], greedy(200))):
                break
            await stream.aclose()

        async def join(number: int, prompt: list[int]) -> str:
            await asyncio.sleep(0.03 * number)
            return await text(engine, prompt, greedy(EXACT_TOKENS))

        crowd = [join(number, prompt) for number, prompt in enumerate(prompts * 2)]
        found = await asyncio.gather(*crowd, *[leave(prompt) for prompt in prompts])
        assert found[: len(prompts) * 2] == expected * 2
    finally:
        engine.close()


@pytest.mark.long
async def test_without_a_compiler_torch_s_kernels_serve_the_same_answers(
    packaged: Path,
    tokenizer: HubTokenizer,
    quick: BatchingEngine,
    prompts: list[list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    engine = open_engine(packaged, tokenizer, "int4", SLOTS, tmp_path)
    assert "without the project's kernels" in engine.describe()["precision_reason"]
    engine.close()
    # exact, since in bf16 torch rounds otherwise for one row than for several
    engine = open_engine(packaged, tokenizer, "fp32", SLOTS, tmp_path)
    try:
        told = engine.describe()
        assert told["kernels"] == "torch"
        assert told["kernels_missing"] == "there is no C++ compiler (g++, clang++, or pip install ziglang)"
        alone = [await text(engine, prompt, greedy(12)) for prompt in prompts[:4]]
        assert await asyncio.gather(*[text(engine, prompt, greedy(12)) for prompt in prompts[:4]]) == alone
        assert generated(packaged, prompts[:1], tokenizer, 12) == alone[:1]
    finally:
        engine.close()


@pytest.mark.long
async def test_an_answer_is_the_same_alone_and_among_others(engine: BatchingEngine, prompts: list[list[int]]) -> None:
    samplings = [greedy(20), Sampling(0.8, 0.9, 20, seed=7), Sampling(1.5, 1.0, 20, seed=1)]
    calls = [(prompt, sampling) for prompt in prompts[:3] for sampling in samplings]
    alone = [await text(engine, *call) for call in calls]
    assert await asyncio.gather(*[text(engine, *call) for call in calls]) == alone
    assert len(set(alone)) > len(prompts)


async def test_a_known_beginning_is_not_computed_again(engine: BatchingEngine, tokenizer: HubTokenizer) -> None:
    first = tokenizer.encode_chat(user_message("Tell me of the river Rhine and of the towns beside it, please."))
    answer = await pieces(engine, first, greedy(12))
    again = await pieces(engine, first, greedy(12))
    assert again[-1].cached_tokens == len(first) - 1
    assert "".join(piece.text for piece in again) == "".join(piece.text for piece in answer)
    longer = [*first, *tokenizer.encode("And of its bridges.")]
    assert (await pieces(engine, longer, greedy(2)))[-1].cached_tokens >= len(first)


async def test_a_stop_string_ends_the_answer_and_is_not_in_it(quick: BatchingEngine, prompts: list[list[int]]) -> None:
    whole = await text(quick, prompts[0], greedy(30))
    stop = whole[20:26]
    found = await pieces(quick, prompts[0], greedy(30, (stop,)))
    assert "".join(piece.text for piece in found) == whole[: whole.index(stop)]
    assert found[-1].finish_reason == "stop"


async def test_the_last_piece_says_why_and_how_many(quick: BatchingEngine, prompts: list[list[int]]) -> None:
    found = await pieces(quick, prompts[0], greedy(5))
    assert (found[-1].finish_reason, found[-1].completion_tokens) == ("length", 5)
    assert all(piece.finish_reason is None for piece in found[:-1])


@pytest.mark.long
async def test_a_slow_reader_waits_for_himself_only(quick: BatchingEngine, prompts: list[list[int]]) -> None:
    stream = quick.generate(prompts[3], Sampling(1.9, 1.0, 1000, seed=4, ignore_eos=True))
    first = await anext(stream)
    # others are served meanwhile, and the slow one stops at the mailbox's size
    mailboxes = [answer.mailbox for answer in quick._scheduler._running]
    await until(lambda: any(mailbox.full for mailbox in mailboxes))
    held = len(mailboxes[0]._outputs)
    assert len(await pieces(quick, prompts[0], greedy(8))) > 1
    assert len(mailboxes[0]._outputs) == held == CAPACITY
    rest = [piece async for piece in stream]
    assert rest[-1].finish_reason is not None
    assert rest[-1].completion_tokens > CAPACITY
    assert first.completion_tokens <= rest[0].completion_tokens


async def test_a_reader_who_leaves_frees_the_slot(quick: BatchingEngine, prompts: list[list[int]]) -> None:
    streams = [quick.generate(prompt, greedy(500)) for prompt in prompts[:SLOTS]]
    for stream in streams:
        await anext(stream)
    waiting = asyncio.create_task(pieces(quick, prompts[4], greedy(2)))
    await asyncio.sleep(0.05)
    assert quick._scheduler.running == SLOTS
    await streams[0].aclose()
    assert (await asyncio.wait_for(waiting, 90))[-1].finish_reason == "length"
    for stream in streams[1:]:
        await stream.aclose()
    await until(lambda: quick._scheduler.running == 0)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_500_aborted_calls_leave_threads_slots_and_memory(
    quick: BatchingEngine, prompts: list[list[int]]
) -> None:
    async def abort(number: int) -> None:
        stream: AsyncIterator[EngineOutput] = quick.generate(prompts[number % len(prompts)], greedy(400))
        call = asyncio.ensure_future(anext(stream))
        await asyncio.wait([call], timeout=0.001 * (number % 40))
        call.cancel()
        await asyncio.wait([call])
        await stream.aclose()  # type: ignore[attr-defined]

    async def abort_many(count: int) -> None:
        for start in range(0, count, 10):
            await asyncio.gather(*[abort(start + number) for number in range(10)])
        await until(lambda: quick._scheduler.running == 0)

    await abort_many(100)
    threads, resident = threading.active_count(), resident_bytes()
    await abort_many(500)
    assert threading.active_count() == threads
    assert quick._scheduler.running == 0
    assert resident_bytes() - resident < 20e6
    assert (await pieces(quick, prompts[0], greedy(3)))[-1].completion_tokens == 3


async def test_closing_ends_running_answers_with_an_error(packaged: Path, tokenizer: HubTokenizer) -> None:
    engine = open_engine(packaged, tokenizer, "int4", SLOTS, Settings().model_cache_dir)
    stream = engine.generate(tokenizer.encode("Once upon a time"), greedy(1000))
    await anext(stream)
    threads = threading.active_count()
    await asyncio.to_thread(engine.close)
    with pytest.raises(ModelUnavailable):
        async for _ in stream:
            pass
    with pytest.raises(ModelUnavailable):
        await anext(engine.generate([1, 2, 3], greedy(3)))
    assert threading.active_count() <= threads


def test_what_it_is_can_be_read(engine: BatchingEngine) -> None:
    told = engine.describe()
    assert told["engine"] == "batching"
    assert told["precision"] in ("fp32", "int4")
    assert str(told["kernels"]).startswith("own, ")
    assert {"threads", "weights_bytes", "slots", "cache_bytes_at_most"} <= set(told)


def test_there_is_at_most_one_openmp_runtime(quick: BatchingEngine) -> None:
    import torch

    torch.ones(64, 64) @ torch.ones(64, 64)
    loaded = {
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "gomp" in line or "omp5" in line
    }
    assert len(loaded) <= 1
