"""The second turn of a chat after a restart: its first token with the prefixes on disk, and computed anew.

python -m eval.bench_restart [--folder FOLDER] [--rounds N]. Each round opens the engine three times: a first turn
that is kept, the second turn from disk, and the same second turn with nothing kept. Prints both times and
their ratio; the answers must be the same.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from apps.core.messages import Message
from apps.core.settings import load_settings
from apps.local.engine.batching.opening import Options, open_engine
from apps.local.engine.port import Sampling
from apps.local.packaged import transformers_checkpoint
from apps.local.tokenizer import HubTokenizer
from eval.bench_local import prompt as words
from eval.bench_report import processor

GREEDY = Sampling(0, 1, 16)


async def timed(
    folder: Path, tokenizer: HubTokenizer, cache_dir: Path, prompt: Sequence[int], keep: int
) -> tuple[float, str]:
    """Seconds to the first token of an engine that was just opened, and the answer."""
    engine = open_engine(folder, tokenizer, "int4", 1, cache_dir, Options(prefix_bytes=keep))
    try:
        began, first, text = time.perf_counter(), 0.0, ""
        async for output in engine.generate(prompt, GREEDY):
            first = first or time.perf_counter() - began
            text += output.text
        return first, text
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None, help="a checkpoint; none: the packaged model")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = options.folder or transformers_checkpoint(load_settings().model_cache_dir)
    tokenizer = HubTokenizer(folder)
    cold, warm = [], []
    with tempfile.TemporaryDirectory() as name:
        cache_dir = Path(name)
        for at in range(options.rounds):
            first = (Message("user", words(at, 800)),)
            _, answer = asyncio.run(timed(folder, tokenizer, cache_dir, tokenizer.encode_chat(first), 1 << 30))
            turns = (*first, Message("assistant", answer), Message("user", "Go on, please."))
            prompt = tokenizer.encode_chat(turns)
            from_disk, told = asyncio.run(timed(folder, tokenizer, cache_dir, prompt, 1 << 30))
            computed, expected = asyncio.run(timed(folder, tokenizer, cache_dir, prompt, 0))
            if told != expected:
                raise SystemExit("the answers differ")
            warm.append(from_disk)
            cold.append(computed)
            print(f"{len(prompt)} tokens: computed {computed:.3f} s, from disk {from_disk:.3f} s", flush=True)
    print(
        f"{processor()}, load average {os.getloadavg()[0]:.1f}: median {median(cold):.3f} s and {median(warm):.3f} s, "
        f"{100 * median(a / b for a, b in zip(warm, cold, strict=True)):.1f}%"
    )


if __name__ == "__main__":
    main()
