"""What quantizing costs, on the packaged model: `python -m eval.local_quality [--tokens N] [--prompts N] [--no-facts]`.

Perplexity of the standard library's documentation per precision, against stock transformers; whether greedy answers
stay the same alone and among seven others; and how many plain facts (local_facts.tsv) are answered right. Prints
three Markdown tables. Minutes on two cores.
"""

import argparse
import asyncio
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apps.core.messages import user_message
from apps.core.settings import load_settings
from apps.local.engine.batching.opening import Caches, open_engine, open_step, own_library
from apps.local.engine.batching.scheduler import BatchingEngine
from apps.local.engine.batching.step import Step
from apps.local.engine.port import Precision, Sampling
from apps.local.packaged import transformers_checkpoint
from apps.local.tokenizer import HubTokenizer
from eval import docstrings

WINDOW = 512
CHARACTERS_A_TOKEN = 5
ANSWER_TOKENS = 32
# precisions, and what keys and values are kept in where it is not what they are kept in anyway
KEPT = (("fp32", None), ("bf16", None), ("int8", None), ("int4", None), ("int8", "int8"), ("int4", "int8"))
BESIDE = 8
FACTS = Path(__file__).with_name("local_facts.tsv")
FACTS_AT: tuple[Precision, ...] = ("fp32", "bf16", "int8", "int4")


def windows(tokenizer: HubTokenizer, tokens: int) -> list[list[int]]:
    """``tokens`` tokens of text in windows; the first token of each is given, not predicted."""
    encoded = tokenizer.encode(docstrings.text(tokens * CHARACTERS_A_TOKEN))[:tokens]
    return [encoded[start : start + WINDOW] for start in range(0, len(encoded) - 1, WINDOW)]


def perplexity(step: Step, texts: Sequence[Sequence[int]]) -> float:
    cache, losses = step.new_cache(), []
    for text in texts:
        for start in range(0, len(text) - 1, step.max_rows):
            positions = list(range(start, min(start + step.max_rows, len(text) - 1)))
            rows = list(range(len(positions)))
            logits = step.run([text[at] for at in positions], positions, [cache] * len(rows), rows)
            losses.append(cross_entropy(logits, [text[at + 1] for at in positions]))
    return math.exp(float(np.mean(np.concatenate(losses))))


def cross_entropy(logits: Any, targets: Sequence[int]) -> Any:
    """Of each row, in nats."""
    top = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - top, dtype=np.float32).sum(axis=-1, dtype=np.float64)) + top[:, 0]
    return total - logits[np.arange(len(targets)), targets]


def stock_perplexity(folder: Path, texts: Sequence[Sequence[int]], dtype: str) -> float:
    """transformers' own forward pass."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).eval()
    losses = []
    with torch.inference_mode():
        for text in texts:
            logits = model(torch.tensor([text[:-1]])).logits[0].float().numpy()
            losses.append(cross_entropy(logits, text[1:]))
    return math.exp(float(np.mean(np.concatenate(losses))))


def prompts(count: int) -> list[str]:
    """The beginnings of ``count`` documentation strings, each to be explained."""
    found = docstrings.docstrings()
    return [f"Explain in your own words: {next(found)[:160]}" for _ in range(count)]


async def answers(engine: BatchingEngine, questions: Sequence[Sequence[int]], beside: int) -> list[str]:
    """Greedy answers, ``beside`` at a time."""
    gate = asyncio.Semaphore(beside)

    async def ask(question: Sequence[int]) -> str:
        async with gate:
            return "".join([piece.text async for piece in engine.generate(question, Sampling(0, 1, ANSWER_TOKENS))])

    return list(await asyncio.gather(*[ask(question) for question in questions]))


def agreement(folder: Path, cache_dir: Path, precision: Precision, count: int) -> int:
    """How many of ``count`` answers are the same alone and among others."""
    tokenizer = HubTokenizer(folder)
    engine = open_engine(folder, tokenizer, precision, BESIDE, cache_dir)
    try:
        questions = [tokenizer.encode_chat(user_message(prompt)) for prompt in prompts(count)]
        alone = asyncio.run(answers(engine, questions, 1))
        among = asyncio.run(answers(engine, questions, BESIDE))
    finally:
        engine.close()
    return sum(one == other for one, other in zip(alone, among, strict=True))


def perplexities(folder: Path, cache_dir: Path, tokens: int) -> None:
    """Prints the first table, a row at a time. Stock bf16 takes a quarter of an hour on a CPU without bf16."""
    import torch

    texts = windows(HubTokenizer(folder), tokens)
    dtype = "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"
    stock = stock_perplexity(folder, texts, dtype)
    print(f"| precision | perplexity, {sum(map(len, texts))} tokens | against stock {dtype} |\n|---|---|---|")
    print(f"| stock transformers, {dtype} | {stock:.4f} | |", flush=True)
    for precision, cache_type in KEPT:
        step = open_step(folder, precision, cache_dir, own_library(cache_dir), Caches(cache_type=cache_type))
        found = perplexity(step, texts)
        step.close()
        keys = f", keys and values {cache_type}" if cache_type else ""
        print(f"| engine, {precision}{keys} | {found:.4f} | {100 * (found / stock - 1):+.2f}% |", flush=True)


def agreements(folder: Path, cache_dir: Path, count: int) -> None:
    """Prints the second table."""
    print(f"\n| precision | same greedy answer alone and among {BESIDE}, of {count} |\n|---|---|")
    precisions: tuple[Precision, ...] = ("fp32", "int4")
    for precision in precisions:
        print(f"| {precision} | {agreement(folder, cache_dir, precision, count)} |", flush=True)


def facts(folder: Path, cache_dir: Path) -> None:
    """Prints the third table. An answer is right where it has one of the wanted words in it."""
    lines = [line.split("\t") for line in FACTS.read_text().splitlines()]
    tokenizer = HubTokenizer(folder)
    questions = [tokenizer.encode_chat(user_message(question)) for question, _ in lines]
    print(f"\n| precision | right, of {len(lines)} questions about facts |\n|---|---|")
    for precision in FACTS_AT:
        engine = open_engine(folder, tokenizer, precision, BESIDE, cache_dir)
        try:
            given = asyncio.run(answers(engine, questions, BESIDE))
        finally:
            engine.close()
        right = sum(has_one(answer, words.split("|")) for answer, (_, words) in zip(given, lines, strict=True))
        print(f"| {precision} | {right} |", flush=True)


def has_one(answer: str, words: Sequence[str]) -> bool:
    """Whether one of ``words`` stands in ``answer`` as a word of its own, whatever its case."""
    return any(re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_480, help="0 leaves perplexity out")
    parser.add_argument("--prompts", type=int, default=100, help="0 leaves the answers out")
    parser.add_argument("--no-facts", action="store_true")
    options = parser.parse_args()
    cache_dir = load_settings().model_cache_dir
    folder = transformers_checkpoint(cache_dir)
    if options.tokens:
        perplexities(folder, cache_dir, options.tokens)
    if options.prompts:
        agreements(folder, cache_dir, options.prompts)
    if not options.no_facts:
        facts(folder, cache_dir)


if __name__ == "__main__":
    main()
