"""`make bench-fleet`: what replicas of the local model add up to, what a gateway in front adds, what workers cost.

python -m eval.bench_fleet [scale|first-token|workers ...] [--model tinyllama|smollm2] [--rounds N]

scale: tokens a second at 16 callers through the gateway, of one replica on one core, two on one core each, and four on
two cores. first-token: time to the first token through the gateway and from the replica itself, in turns. workers: CPU
seconds of all processes a call, and answers from the cache a second, with API_WORKERS 1 and 2. Writes
reports/bench_fleet.md. The machine must have nothing else to do.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvloop
import yaml

from apps.core.settings import load_settings
from apps.local.packaged import packaged_checkpoint
from eval import tinyllama_shape
from eval.bench_process import READY_SECONDS, ROOT, process
from eval.bench_workers import NO_MODEL, US, workers
from eval.process_cpu import started_with, thread_seconds

CALLERS = 16
TOKENS = 64
PARTS = ("scale", "first-token", "workers")
WORDS = ("bana", "dola", "fura", "gisan", "hemor", "kilus", "lotar", "mevi", "nopas", "rudon", "sakir", "tewan")


@contextmanager
def fleet(folder: Path, cores: Sequence[Sequence[int]]) -> Iterator[tuple[str, list[str], str]]:
    """A gateway and a replica for each of ``cores``: the gateway's URL, the replicas', and the secret."""
    secret = secrets.token_urlsafe(32)
    own = {"SERVE_ROLE": "model", "FLEET_SECRET": secret, "LOCAL_MODEL": str(folder), "LOCAL_SLOTS": str(CALLERS)}
    with ExitStack() as stack:
        replicas = [stack.enter_context(process(own, one)) for one in cores]
        _await_models(replicas, secret)
        kept = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = kept / "gateway.yaml"
        target = {"provider": "replicas", "model": "local"}
        content = {
            "providers": {"replicas": {"kind": "replicas", "addresses": replicas}},
            "models": {"fleet": {"targets": [target]}},
        }
        file.write_text(yaml.safe_dump(content))
        settings = {"GATEWAY_CONFIG": str(file), "FLEET_SECRET": secret, **NO_MODEL}
        yield stack.enter_context(process(settings)), replicas, secret


def _await_models(urls: Sequence[str], secret: str) -> None:
    """Until each has the model that it was told of: another may answer before that."""
    end = time.monotonic() + READY_SECONDS
    for url in urls:
        while True:
            told = httpx2.get(f"{url}/v1/capacity", headers={"Authorization": f"Bearer {secret}"}, timeout=30).json()
            if any(model["kind"] == "chat" and model["reason"].startswith("Loaded") for model in told["models"]):
                break
            if time.monotonic() > end:
                raise RuntimeError(f"a replica's model is not ready: {told}")
            time.sleep(0.1)


async def ask(url: str, text: str, tokens: int, secret: str = "", model: str = "fleet") -> tuple[float, int]:
    """One streamed call: seconds to its first token, and tokens."""
    host, port = url.removeprefix("http://").split(":")
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": True}
    raw = json.dumps({**body, "ignore_eos": True, "stream_options": {"include_usage": True}}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    )
    head += f"Authorization: Bearer {secret}\r\n" if secret else ""
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    began, first, tail = time.perf_counter(), 0.0, b""
    try:
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(raw) + raw)
        while chunk := await reader.read(1 << 16):
            if not first and b'"content":"' in chunk.replace(b'": "', b'":"'):
                first = time.perf_counter() - began
            tail = (tail + chunk)[-4000:]
    finally:
        writer.close()
    if b"[DONE]" not in tail:
        raise RuntimeError(tail.decode(errors="replace"))
    counted = int(tail.rsplit(b'"completion_tokens"', 1)[1].lstrip(b": ").split(b",")[0].split(b"}")[0])
    return first or time.perf_counter() - began, counted


def prompt(number: int, words: int = 20) -> str:
    """Different from its first word on, so that no prefix is shared."""
    told = " ".join(WORDS[(number * 7 + at * (number + 1)) % len(WORDS)] for at in range(words))
    return f"{number} {told} Tell a story."


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second in sum, and microseconds of CPU a token: what replicas compute, their HTTP, the gateway, here."""

    rate: float
    engine: float
    http: float
    gateway: float
    client: float


def speed(url: str, replicas: Sequence[int], gateway: int, number: int) -> Speed:
    """Of 16 callers at once, from the first call to the last token."""

    async def all_at_once() -> tuple[int, float]:
        began = time.perf_counter()
        calls = [ask(url, prompt(1000 * number + caller), TOKENS) for caller in range(CALLERS)]
        tokens = sum(count for _, count in await asyncio.gather(*calls))
        return tokens, time.perf_counter() - began

    processes = [*replicas, gateway, os.getpid()]
    before = [thread_seconds(one) for one in processes]
    tokens, seconds = uvloop.run(all_at_once())
    *of_replicas, of_gateway, own = (thread_seconds(one) - was for one, was in zip(processes, before, strict=True))
    engine, http = sum(one.others for one in of_replicas), sum(one.main for one in of_replicas)
    parts = (engine, http, of_gateway.main + of_gateway.others, own.main)
    return Speed(tokens / seconds, *(part / tokens * US for part in parts))


def scale(folder: Path, rounds: int) -> list[str]:
    """The best of ``rounds`` for each: other work can only make a figure worse."""
    found = {}
    for name, cores in {"one": [[0]], "two": [[0], [1]], "four": [[0, 1]] * 4, "two wide": [[0, 1]] * 2}.items():
        with fleet(folder, cores) as (url, replicas, _):
            gateway, *processes = (started_with("API_PORT", one.rpartition(":")[2]) for one in (url, *replicas))
            speed(url, processes, gateway, 99)
            found[name] = max((speed(url, processes, gateway, at) for at in range(rounds)), key=lambda one: one.rate)
    return [
        f"tokens/s at {CALLERS} callers through the gateway, {TOKENS} tokens each, best of {rounds}:",
        *(
            f"- {name}: {one.rate:.1f}; CPU a token: {one.engine:.0f} us to compute, {one.http:.0f} of the replica's"
            f" HTTP, {one.gateway:.0f} of the gateway, {one.client:.0f} of the client"
            for name, one in found.items()
        ),
        f"- two replicas of one core each against one: {found['two'].rate / found['one'].rate:.2f} (at least 1.7)",
        "- four replicas on two cores against two there:"
        f" {found['four'].rate / found['two wide'].rate:.2f} (at least 0.85)",
    ]


def first_token(folder: Path, rounds: int) -> list[str]:
    direct, through = [], []
    with fleet(folder, [[0]]) as (url, (replica,), secret):
        for number in range(rounds * 30):
            # in turns, each with a prompt that nobody has computed
            # few words: their prefill varies by more than a gateway adds
            direct.append(uvloop.run(ask(replica, prompt(2 * number, 2), 1, secret, "local"))[0])
            through.append(uvloop.run(ask(url, prompt(2 * number + 1, 2), 1))[0])
    near, far = statistics.median(direct), statistics.median(through)
    return [
        f"first token, p50 of {len(direct)}: {near * 1000:.2f} ms from the replica, {far * 1000:.2f} ms through the"
        f" gateway, {(far - near) * 1000:+.2f} ms (at most 3)"
    ]


def _checkpoint(model: str) -> Path:
    cache_dir = load_settings().model_cache_dir
    if model == "smollm2":
        return packaged_checkpoint(cache_dir)
    folder = cache_dir / "tinyllama-shape"
    tinyllama_shape.write(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--model", choices=["tinyllama", "smollm2"], default="tinyllama")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    made: dict[str, Any] = {
        "scale": lambda: scale(_checkpoint(options.model), options.rounds),
        "first-token": lambda: first_token(_checkpoint(options.model), options.rounds),
        "workers": lambda: workers(options.rounds),
    }
    lines = [f"`python -m eval.bench_fleet {' '.join(sys.argv[1:])}`, {os.cpu_count()} cores", ""]
    for part in options.parts or PARTS:
        lines += [f"## {part}", "", *made[part](), ""]
        print("\n".join(lines[-8:]), flush=True)
    report = ROOT / "reports" / "bench_fleet.md"
    report.parent.mkdir(exist_ok=True)
    report.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
