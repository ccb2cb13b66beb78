"""`make bench-local`: the local model and its peers over HTTP with SSE, in turns, and stock `model.generate`.

python -m eval.bench_local [--only tinyllama|smollm2] [--rounds 3] [--tokens 64] [--without NAME,...] [--folder FOLDER]
    [--against CHECKOUT] [--row-seconds 60]

On TinyLlama's shape (random weights, written to FOLDER once) and on the packaged SmolLM2. The peers are llama.cpp and
OpenVINO GenAI (eval/local_peers), both on one GGUF file of the same checkpoint; what cannot be had is left out, with
its reason. CHECKOUT is one more contender, "then": this project as it was, say in a git worktree of an earlier commit;
a column more says how many times as good this one is, by the median over the rounds. It takes many of them where
other machines share the processor: `--row-seconds` goes on with each row for so long.
Each row is measured for one server after the other, `--rounds` times, and the best is kept: other processes' work can
only make a figure worse. All servers have 16 slots. Writes reports/bench_local.md, .json and .png.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from apps.core.settings import load_settings
from apps.local.packaged import packaged_gguf, transformers_checkpoint
from apps.local.tokenizer import HubTokenizer
from eval import bench_report, tinyllama_shape
from eval.bench_client import Refused, Server, ask, ask_all, conversation, decode_speed, long_prompt_beside, said
from eval.bench_report import CALLERS
from eval.bench_speculation import CASES
from eval.bench_speculation import SCHEMA as SHIPMENTS
from eval.case_server import ServerError
from eval.local_contenders import CONTENDERS, OURS, THEN, Checkpoint, Contender, NotHere, Opening, ours
from eval.local_peers import gguf_file

PROMPTS = (128, 512, 1500)
TURNS = 8
# of one measurement of one contender: half an hour of a machine is too much
PATIENCE = 600.0
# what a chat's template puts around a prompt, about
TEMPLATE_TOKENS = 30
WORDS = ("bana", "dola", "fura", "gisan", "hemor", "kilus", "lotar", "mevi", "nopas", "rudon", "sakir", "tewan")
COPYING = [{"role": each.role, "content": str(each.content)} for each in CASES[0].messages()]
Figures = dict[str, float]


def prompt(number: int, words: int) -> str:
    """Different from its first word on, so that no prefix is shared."""
    text = (WORDS[(number * 7 + at * (number + 1)) % len(WORDS)] for at in range(words))
    return f"{number} {' '.join(text)} Tell a long story."


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts of so many tokens, template included, within a few per cent. No two are alike, in any round."""

    tokens_a_word: float

    @classmethod
    def of(cls, folder: Path) -> "Prompts":
        return cls(len(HubTokenizer(folder).encode(prompt(1, 400))) / 400)

    def text(self, number: int, tokens: int) -> str:
        return prompt(number, max(1, round((tokens - TEMPLATE_TOKENS) / self.tokens_a_word)))


async def decode(server: Server, at: int, prompts: Prompts, callers: int, tokens: int) -> Figures:
    texts = [prompts.text(100_000 * callers + 100 * at + number, 50) for number in range(callers)]
    whole, answers = await ask_all(server, texts, tokens)
    return {f"decode_{callers}": decode_speed(answers), f"whole_{callers}": whole}


async def prefill(server: Server, at: int, prompts: Prompts, length: int) -> Figures:
    return {f"prefill_{length}": (await ask(server, said(prompts.text(10_000 * length + at, length)), 1)).prefill_speed}


async def first_token(server: Server, at: int, prompts: Prompts) -> Figures:
    return {"first_seconds": (await ask(server, said(prompts.text(2_000_000 + at, 40)), 1)).first}


async def chat(server: Server, at: int, prompts: Prompts, tokens: int) -> Figures:
    openings = [prompts.text(3_000_000 + 10 * at + turn, 60) for turn in range(TURNS)]
    answers = await conversation(server, openings, tokens)
    took = sum(answer.deltas[-1] - answer.asked for answer in answers)
    return {"chat_seconds": took, "last_turn_seconds": answers[-1].first}


async def structured(server: Server, at: int, tokens: int) -> Figures:
    answer = await ask(server, said(f"{at}. List four shipments."), max(tokens, 200), SHIPMENTS)
    return {"json": answer.speed}


async def copying(server: Server, at: int, tokens: int) -> Figures:
    first, *others = COPYING
    messages = [{**first, "content": f"{at}. {first['content']}"}, *others]
    return {"copying": (await ask(server, messages, max(tokens, 16))).speed}


async def mixed(server: Server, at: int, prompts: Prompts, tokens: int) -> Figures:
    running = [prompts.text(4_000_000 + 10 * at + number, 50) for number in range(3)]
    gap, speed = await long_prompt_beside(server, running, prompts.text(5_000_000 + at, 1500), 2 * tokens)
    return {"gap_seconds": gap, "mixed": speed}


Part = Callable[[Server, int], Any]


def parts_of(prompts: Prompts, tokens: int) -> list[Part]:
    return [
        *(partial(decode, prompts=prompts, callers=callers, tokens=tokens) for callers in CALLERS),
        *(partial(prefill, prompts=prompts, length=length) for length in PROMPTS),
        partial(first_token, prompts=prompts),
        partial(chat, prompts=prompts, tokens=tokens),
        partial(structured, tokens=tokens),
        partial(copying, tokens=2 * tokens),
        partial(mixed, prompts=prompts, tokens=tokens),
    ]


def best(name: str, values: Sequence[float]) -> float:
    """Seconds are better where they are fewer, all else is where there is more of it."""
    return min(values) if name.endswith("seconds") else max(values)


def in_turns(
    contenders: Mapping[str, Contender], parts: Sequence[Part], rounds: int, seconds: float = 0.0
) -> dict[str, dict[str, dict[int, float]]]:
    """Each contender's figures by round; at least ``rounds`` of each part, and for ``seconds``."""
    found: dict[str, dict[str, dict[int, float]]] = {name: {} for name in contenders}
    for part in parts:
        began, at = time.monotonic(), -1
        while (at := at + 1) < rounds or time.monotonic() - began < seconds:
            # one after the other in this round, the other way round in the next
            for name, contender in list(contenders.items())[:: -1 if at % 2 else 1]:
                for key, value in figures_of(name, part, contender.server, at).items():
                    found[name].setdefault(key, {})[at] = value
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    return found


def ratios(now: Mapping[str, Mapping[int, float]], then: Mapping[str, Mapping[int, float]]) -> Figures:
    """How many times as good ``now`` is, over 1 where it is better: the median of the rounds' own ratios.

    Both of one round were measured seconds apart, so that a machine whose speed changes by the minute changes both.
    """
    found = {}
    for key, values in now.items():
        others = then.get(key, {})
        pairs = [(values[at], others[at]) for at in values.keys() & others.keys()]
        if pairs:
            found[key] = median(old / new if key.endswith("seconds") else new / old for new, old in pairs)
    return found


def figures_of(name: str, part: Part, server: Server, at: int) -> Figures:
    """Empty where a peer does not take the call, or does not end in time; ours must. Raises Refused, TimeoutError."""

    async def bounded() -> Figures:
        async with asyncio.timeout(PATIENCE):
            return dict(await part(server, at))

    try:
        return asyncio.run(bounded())
    except (Refused, TimeoutError, OSError) as error:
        if name == OURS:
            raise
        print(f"{name} did not answer: {type(error).__name__} {str(error)[-200:]}", file=sys.stderr)
        return {}


def program(module: str, *arguments: str) -> dict[str, Any]:
    """What a program of ours prints in its last line."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own module
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(
    checkpoint: Checkpoint,
    contenders: Mapping[str, Opening],
    stock: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    tokens: int,
) -> dict[str, Any]:
    """Of one checkpoint: each contender's figures, the machine's limits, and why others are not there."""
    found: dict[str, Any] = {"limits": program("eval.machine_limits"), "missing": {}, "figures": {}, "notes": {}}
    for name in stock:
        found["figures"][name] = program("eval.bench_stock", str(checkpoint.folder), DTYPES[name])
    running: dict[str, Contender] = {}
    with ExitStack() as stack:
        for name, opening in contenders.items():
            try:
                running[name] = stack.enter_context(opening(checkpoint, max(CALLERS)))
            except (NotHere, ServerError, OSError) as error:
                found["missing"][name] = str(error)
                print(f"{name} is left out: {error}", file=sys.stderr)
        parts = parts_of(Prompts.of(checkpoint.folder), tokens)
        measured = in_turns(running, parts, rounds, seconds)
        for name, values in measured.items():
            figures = {key: best(key, [*each.values()]) for key, each in values.items()}
            contender = running[name]
            more = {"peak_bytes": float(contender.peak_bytes()), "start_seconds": contender.seconds}
            found["figures"][name] = figures | more | {"weights_bytes": float(contender.weights_bytes)}
            found["notes"][name] = contender.note
    if THEN in running:
        found["ratios"] = ratios(measured[OURS], measured[THEN])
    if OURS in running:
        found["figures"][OURS]["cold_seconds"] = cold_start(checkpoint)
    found["parameters"] = checkpoint.parameters()
    return found


def cold_start(checkpoint: Checkpoint) -> float:
    """Seconds to the first token where kernels and packed weights must be made first."""
    with tempfile.TemporaryDirectory() as empty, ours(replace(checkpoint, cache_dir=Path(empty)), 4) as contender:
        return contender.seconds


DTYPES = {"stock bf16": "bfloat16", "stock fp32": "float32"}


def checkpoints(only: str | None, folder: Path | None, cache_dir: Path) -> list[Checkpoint]:
    made = []
    if only != "smollm2":
        shape = folder or cache_dir / "tinyllama-shape"
        tinyllama_shape.write(shape)

        def written() -> Path:
            target = shape / "q4_0.gguf"
            gguf_file.write(shape, packaged_gguf(), target)
            return target

        made.append(Checkpoint("TinyLlama's shape", shape, written, cache_dir))
    if only != "tinyllama":
        made.append(Checkpoint("SmolLM2-135M", transformers_checkpoint(cache_dir), packaged_gguf, cache_dir))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--only", choices=["tinyllama", "smollm2"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row-seconds", type=float, default=0.0, help="more rounds of a row, for so long")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--without", default="", help=f"{', '.join([*DTYPES, *CONTENDERS])}, separated by commas")
    parser.add_argument("--against", type=Path, help="a checkout of this repository to run beside this one")
    options = parser.parse_args()
    without = [name for name in options.without.split(",") if name]
    if unknown := set(without) - {*DTYPES, *CONTENDERS}:
        parser.error(f"no contenders: {', '.join(sorted(unknown))}")
    cache_dir = load_settings().model_cache_dir
    contenders = {name: opening for name, opening in CONTENDERS.items() if name not in without}
    if options.against:
        contenders[THEN] = partial(ours, checkout=options.against.resolve())
    stock = [name for name in DTYPES if name not in without]
    results = {
        checkpoint.name: measure(
            checkpoint, contenders, stock, rounds=options.rounds, seconds=options.row_seconds, tokens=options.tokens
        )
        for checkpoint in checkpoints(options.only, options.folder, cache_dir)
    }
    bench_report.write(results, Path("reports"))
    print((Path("reports") / "bench_local.md").read_text())


if __name__ == "__main__":
    main()
