"""The real engine on the real packaged model."""

import asyncio
import random
import threading
from pathlib import Path

import pytest

from apps.core.errors import InternalError, ModelUnavailable
from apps.core.messages import user_message
from apps.local.engine.port import EngineOutput, Sampling
from apps.local.tokenizer import HubTokenizer

pytest.importorskip("torch", reason="torch comes with requirements-local.txt")
from apps.local.engine.plain.engine import CheckpointBroken, PlainEngine, load_plain_engine

pytestmark = pytest.mark.local


async def answer(engine: PlainEngine, prompt: list[int], sampling: Sampling) -> tuple[str, EngineOutput]:
    pieces = [piece async for piece in engine.generate(prompt, sampling)]
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    return "".join(piece.text for piece in pieces), pieces[-1]


@pytest.fixture
def prompt(tokenizer: HubTokenizer) -> list[int]:
    return tokenizer.encode_chat(user_message("What is Python?"))


@pytest.mark.long
async def test_a_greedy_answer_is_what_transformers_generates_token_for_token(
    engine: PlainEngine, tokenizer: HubTokenizer, prompt: list[int], packaged: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    text, last = await answer(engine, prompt, Sampling(0.0, 0.9, 40))
    assert "programming language" in text
    assert (last.finish_reason, last.completion_tokens) == ("length", 40)
    model = AutoModelForCausalLM.from_pretrained(packaged, dtype=torch.float32)
    tokens = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=40, do_sample=False
    )
    assert text == tokenizer.decode(tokens[0, len(prompt) :].tolist())
    assert (await answer(engine, prompt, Sampling(0.0, 0.9, 40)))[0] == text


@pytest.mark.long
async def test_four_answers_at_once_are_the_same_as_alone(engine: PlainEngine, prompt: list[int]) -> None:
    alone = await answer(engine, prompt, Sampling(0.0, 0.9, 20))
    assert await asyncio.gather(*(answer(engine, prompt, Sampling(0.0, 0.9, 20)) for _ in range(4))) == [alone] * 4


@pytest.mark.long
async def test_a_seed_repeats_its_answer_also_beside_others(engine: PlainEngine, prompt: list[int]) -> None:
    async def drawn(seed: int | None) -> str:
        return (await answer(engine, prompt, Sampling(1.5, 1.0, 16, seed)))[0]

    first = await drawn(7)
    results = await asyncio.gather(drawn(7), drawn(8), drawn(None), drawn(None))
    assert results[0] == first
    assert len({first, *results[1:]}) == 4


@pytest.mark.long
async def test_a_tiny_top_p_or_temperature_is_the_greedy_answer(engine: PlainEngine, prompt: list[int]) -> None:
    greedy, _ = await answer(engine, prompt, Sampling(0.0, 0.9, 12))
    for temperature, top_p in ((2.0, 0.0), (1e-30, 1.0)):
        assert (await answer(engine, prompt, Sampling(temperature, top_p, 12)))[0] == greedy


async def test_max_tokens_1_is_one_token(engine: PlainEngine, prompt: list[int]) -> None:
    text, last = await answer(engine, prompt, Sampling(0.0, 0.9, 1))
    assert (text, last) == ("Python", EngineOutput("Python", 1, "length", tokens=last.tokens))
    assert len(last.tokens) == 1


@pytest.mark.long
async def test_the_models_own_end_is_a_stop(engine: PlainEngine, tokenizer: HubTokenizer) -> None:
    prompt = tokenizer.encode_chat(user_message("What is the capital of France? Answer with one word."))
    text, last = await answer(engine, prompt, Sampling(0.0, 0.9, 100))
    assert last.finish_reason == "stop"
    assert "Paris" in text and "<|im_end|>" not in text
    # the end token is one of the tokens that were generated
    assert last.completion_tokens == len(tokenizer.encode(text)) + 1


@pytest.mark.long
async def test_a_stop_string_ends_the_answer_before_it(engine: PlainEngine, prompt: list[int]) -> None:
    whole, _ = await answer(engine, prompt, Sampling(0.0, 0.9, 30))
    for stop in ("high-level", "programming language", "gh-lev"):
        text, last = await answer(engine, prompt, Sampling(0.0, 0.9, 30, stop=("nowhere", stop)))
        assert (text, last.finish_reason) == (whole[: whole.index(stop)], "stop")
        assert last.completion_tokens < 30


@pytest.mark.long
async def test_an_emoji_of_several_tokens_arrives_whole(engine: PlainEngine, tokenizer: HubTokenizer) -> None:
    assert len(tokenizer.encode("🦜")) > 1
    prompt = tokenizer.encode("🦜 🦜 🦜 🦜 🦜 🦜 🦜 🦜 🦜 🦜")
    pieces = [piece async for piece in engine.generate(prompt, Sampling(0.0, 0.9, 31))]
    text = "".join(piece.text for piece in pieces)
    assert "🦜" in text
    assert all("\ufffd" not in piece.text for piece in pieces)


@pytest.mark.long
async def test_answers_cut_at_random_tokens_leave_no_thread_and_no_slot(engine: PlainEngine, prompt: list[int]) -> None:
    await asyncio.gather(*(answer(engine, prompt, Sampling(0.0, 0.9, 2)) for _ in range(4)))
    threads = threading.active_count()
    rng = random.Random(5)
    for _ in range(30):
        stream = engine.generate(prompt, Sampling(0.7, 0.9, 400))
        if tokens := rng.randrange(8):
            for _ in range(tokens):
                await anext(stream)
        else:
            task = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(rng.random() * 0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(60):
            await stream.aclose()
    assert not engine._running
    assert threading.active_count() == threads
    assert (await answer(engine, prompt, Sampling(0.0, 0.9, 1)))[1].completion_tokens == 1


@pytest.mark.long
async def test_a_long_prompt_can_be_left_before_its_first_token(engine: PlainEngine, prompt: list[int]) -> None:
    layers = list(engine._interruptible())
    begun, entered = threading.Event(), 0

    def count(module: object, arguments: object) -> None:
        nonlocal entered
        entered += 1
        begun.set()

    hooks = [layer.register_forward_pre_hook(count) for layer in layers]
    task = asyncio.ensure_future(anext(engine.generate(prompt * 150, Sampling(0.0, 0.9, 5))))
    await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for hook in hooks:
        hook.remove()
    # the layer that ran, and the one that another thread may have entered meanwhile
    assert entered < len(layers) / 2
    assert not engine._running


@pytest.mark.long
async def test_a_slow_reader_loses_nothing(engine: PlainEngine, prompt: list[int]) -> None:
    expected, _ = await answer(engine, prompt, Sampling(0.0, 0.9, 12))
    text = ""
    async for piece in engine.generate(prompt, Sampling(0.0, 0.9, 12)):
        await asyncio.sleep(0.1)
        text += piece.text
    assert text == expected


async def test_a_generation_that_dies_is_an_error_and_no_hang(engine: PlainEngine, prompt: list[int]) -> None:
    # a token that the vocabulary does not have: torch's embedding raises inside `generate`
    with pytest.raises(InternalError) as failed:
        async with asyncio.timeout(60):
            await answer(engine, [*prompt, 10_000_000], Sampling(0.0, 0.9, 5))
    assert failed.value.details["cause"] == "IndexError"
    assert not engine._running


@pytest.mark.long
async def test_closing_the_engine_ends_running_and_waiting_generations_with_an_error(
    packaged: Path, prompt: list[int]
) -> None:
    before = threading.active_count()
    engine = load_plain_engine(packaged, HubTokenizer(packaged), "bf16", 2)
    tasks = [asyncio.create_task(answer(engine, prompt, Sampling(0.0, 0.9, 400))) for _ in range(4)]
    await asyncio.sleep(0.1)
    engine.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ModelUnavailable] * 4
    with pytest.raises(ModelUnavailable):
        await answer(engine, prompt, Sampling(0.0, 0.9, 1))
    assert threading.active_count() == before


@pytest.mark.long
def test_a_precision_that_is_not_served_is_said_in_the_log_and_the_description(
    packaged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load_plain_engine(packaged, HubTokenizer(packaged), "int8", 1)
    engine.close()
    assert "int8 is not served by the plain engine" in caplog.text
    description = engine.describe()
    assert description["precision"] in ("fp32", "bf16")
    assert "LOCAL_PRECISION=int8 is not served" in description["precision_reason"]


@pytest.mark.parametrize("damage", ["cut", "garbage", "header", "missing"])
@pytest.mark.long
def test_broken_weights_are_a_failure_that_names_the_folder(packaged: Path, tmp_path: Path, damage: str) -> None:
    from safetensors.numpy import load_file, save_file

    for file in packaged.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    broken, whole = tmp_path / "model.safetensors", packaged / "model.safetensors"
    if damage == "cut":
        with whole.open("rb") as source:
            broken.write_bytes(source.read(1_000_000))
    elif damage == "garbage":
        broken.write_bytes(b"\x00" * 1000)
    elif damage == "header":
        broken.write_bytes(b"\xff" * 8)
    else:
        weights = load_file(whole)
        del weights["model.layers.3.mlp.up_proj.weight"]
        save_file(weights, broken, metadata={"format": "pt"})
    with pytest.raises(CheckpointBroken, match=f"{tmp_path}.*{'lacks weights' if damage == 'missing' else ''}"):
        load_plain_engine(tmp_path, HubTokenizer(packaged), "fp32", 1)
