"""A client of /local/generate that costs next to nothing, since it shares the CPU with what it measures."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Timed:
    """One streamed answer: seconds on the monotonic clock, tokens as the server counted them."""

    asked: float
    deltas: list[float] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> float:
        return self.deltas[0] - self.asked

    @property
    def longest_gap(self) -> float:
        return max((b - a for a, b in zip(self.deltas, self.deltas[1:], strict=False)), default=0.0)


class Refused(Exception):
    """The server answered with something other than a whole stream."""


async def ask(port: int, prompt: str, max_tokens: int) -> Timed:
    """One streamed call. Raises Refused."""
    body = json.dumps({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}).encode()
    head = (
        "POST /local/generate?stream=true HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    timed = Timed(time.perf_counter())
    try:
        writer.write(head.encode() + body)
        tail = b""
        while chunk := await reader.read(1 << 16):
            now = time.perf_counter()
            if b"data:" in chunk and b"event: done" not in chunk:
                timed.deltas.append(now)
            tail = (tail + chunk)[-2000:]
    finally:
        writer.close()
    if b"event: done" not in tail:
        raise Refused(tail.decode(errors="replace"))
    done = next(line for line in tail.split(b"event: done", 1)[1].splitlines() if line.startswith(b"data:"))
    timed.usage = json.loads(done.removeprefix(b"data:"))["usage"]
    timed.deltas = timed.deltas or [time.perf_counter()]
    return timed


async def ask_all(port: int, prompts: Sequence[str], max_tokens: int) -> tuple[float, list[Timed]]:
    """All at once: completion tokens a second in sum, from the first request to the last byte; and each answer."""
    began = time.perf_counter()
    answers = await asyncio.gather(*[ask(port, prompt, max_tokens) for prompt in prompts])
    seconds = time.perf_counter() - began
    return sum(answer.usage["completion_tokens"] for answer in answers) / seconds, list(answers)


def decode_speed(answers: Sequence[Timed]) -> float:
    """Tokens a second in sum from when the last caller has a token until the first one is through.

    As stock is measured: prompts are left out. A delta may be several tokens, so deltas only say how they spread.
    """
    begin, end = max(answer.deltas[0] for answer in answers), min(answer.deltas[-1] for answer in answers)
    if begin >= end:
        return 0.0
    tokens = 0.0
    for answer in answers:
        within = sum(begin < at <= end for at in answer.deltas)
        tokens += within / len(answer.deltas) * answer.usage["completion_tokens"]
    return tokens / (end - begin)


async def long_prompt_beside(port: int, running: Sequence[str], prompt: str) -> tuple[float, Timed]:
    """The longest gap in streams that run while a long prompt arrives, and the long prompt's own answer."""
    streams = [asyncio.create_task(ask(port, text, 120)) for text in running]
    await asyncio.sleep(1)
    arrived = await ask(port, prompt, 2)
    answers = await asyncio.gather(*streams)
    return max(answer.longest_gap for answer in answers), arrived
