"""`make bench-local`: stock `model.generate` against the local model over HTTP with SSE, in one run.

python -m eval.bench_local [--folder FOLDER] [--only tinyllama|smollm2] [--rounds N]. On TinyLlama's shape (random
weights, written to FOLDER once) and on the packaged SmolLM2. Writes reports/bench_local.md and .png. Minutes.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from apps.core.settings import load_settings
from apps.local.packaged import transformers_checkpoint
from eval import bench_report, tinyllama_shape
from eval.bench_client import Timed, ask, ask_all, decode_speed, long_prompt_beside
from eval.case_server import server

CALLERS = (1, 4, 8, 16)
TOKENS = 64
# about so many tokens with the template, and the words that make them
PROMPTS = {128: 77, 512: 461}
WORDS = ("bana", "dola", "fura", "gisan", "hemor", "kilus", "lotar", "mevi", "nopas", "rudon", "sakir", "tewan")


def prompt(number: int, words: int) -> str:
    """Different from its first word on, so that no prefix is shared."""
    text = (WORDS[(number * 7 + at * (number + 1)) % len(WORDS)] for at in range(words))
    return f"{number} {' '.join(text)} Tell a long story."


def stock(folder: Path, dtype: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "eval.bench_stock", str(folder), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own module
    return dict(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def local_server(folder: Path, cache_dir: Path, slots: int) -> Iterator[tuple[int, float]]:
    """The port of a server with a ready local model, and when its start began."""
    settings = {
        "LOCAL_MODEL": str(folder),
        "LOCAL_SLOTS": str(slots),
        "MODEL_CACHE_DIR": str(cache_dir),
        "MAX_PROMPT_CHARS": "100000",
        "LOG_LEVEL": "warning",
    }
    with tempfile.TemporaryDirectory() as logs:
        began = time.perf_counter()
        with server(settings, "http://127.0.0.1:9", Path(logs) / "server.log") as base_url:
            while local_state(base_url) == "loading":
                time.sleep(0.02)
            yield int(base_url.rsplit(":", 1)[1]), began


def local_state(base_url: str) -> str:
    models = httpx2.get(f"{base_url}/ready", timeout=10).json()["models"]
    return next(str(model["status"]) for model in models if model["route"] == "/local/generate")


def peak_bytes(port: int) -> int:
    """VmHWM of the process that listens on ``port``."""
    wanted = f":{port:04X} 00000000:0000 0A"
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines() if wanted in line]
    inode = sockets[0][9]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) == f"socket:[{inode}]" for link in (process / "fd").iterdir()):
                lines = (process / "status").read_text().splitlines()
                return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        except OSError:
            continue
    raise RuntimeError(f"no process listens on port {port}")


def start_to_first_token(folder: Path, cache_dir: Path) -> float:
    with local_server(folder, cache_dir, 4) as (port, began):
        asyncio.run(ask(port, prompt(0, 4), 2))
        return time.perf_counter() - began


def engine(folder: Path, cache_dir: Path, rounds: int) -> dict[str, Any]:
    """The best of ``rounds``: other processes' work can only make a figure worse."""
    with tempfile.TemporaryDirectory() as empty:
        found: dict[str, Any] = {"cold_seconds": start_to_first_token(folder, Path(empty))}
    found["warm_seconds"] = min(start_to_first_token(folder, cache_dir) for _ in range(2))
    with local_server(folder, cache_dir, 4) as (port, _):
        running = [prompt(200 + number, 8) for number in range(3)]
        gaps = [asyncio.run(long_prompt_beside(port, running, prompt(300 + at, 1450))) for at in range(rounds)]
        found["gap"] = min(gap for gap, _ in gaps)
        for length, words in PROMPTS.items():
            answers = [asyncio.run(ask(port, prompt(length + at, words), 1)) for at in range(rounds)]
            found[f"prefill_{length}"] = max(map(prefill_speed, answers))
        found["first_token"] = min(asyncio.run(ask(port, prompt(500 + at, 8), 1)).first for at in range(rounds))
        found["peak_bytes"] = peak_bytes(port)
    with local_server(folder, cache_dir, max(CALLERS)) as (port, _):
        for callers in CALLERS:
            whole, decode = [], []
            for at in range(rounds):
                prompts = [prompt(1000 * callers + 100 * at + number, 8) for number in range(callers)]
                speed, answers = asyncio.run(ask_all(port, prompts, TOKENS))
                whole.append(speed)
                decode.append(decode_speed(answers))
            found[f"whole_{callers}"], found[f"decode_{callers}"] = max(whole), max(decode)
    return found


def prefill_speed(answer: Timed) -> float:
    """The prompts share nothing but the template's beginning, so that next to nothing of them is cached."""
    return float(answer.usage["prompt_tokens"] / answer.first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--only", choices=["tinyllama", "smollm2"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cache_dir = load_settings().model_cache_dir
    results: dict[str, dict[str, Any]] = {}
    if options.only != "smollm2":
        folder = options.folder or cache_dir / "tinyllama-shape"
        tinyllama_shape.write(folder)
        results["TinyLlama shape"] = measure(folder, cache_dir, options.rounds)
    if options.only != "tinyllama":
        results["SmolLM2-135M"] = measure(transformers_checkpoint(cache_dir), cache_dir, options.rounds)
    bench_report.write(results, Path("reports"))
    print((Path("reports") / "bench_local.md").read_text())


def measure(folder: Path, cache_dir: Path, rounds: int) -> dict[str, Any]:
    return {
        "stock bf16": stock(folder, "bfloat16"),
        "stock fp32": stock(folder, "float32"),
        "engine": engine(folder, cache_dir, rounds),
    }


if __name__ == "__main__":
    main()
