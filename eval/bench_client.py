"""A client of /v1/chat/completions that costs next to nothing, since it shares the CPU with what it measures."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from apps.core.messages import JsonObject

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask, and the model's name there."""

    url: str
    model: str = "local"


@dataclass(slots=True)
class Timed:
    """One streamed answer: seconds on the monotonic clock, tokens as the server counted them."""

    asked: float
    deltas: list[float] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def first(self) -> float:
        return self.deltas[0] - self.asked

    @property
    def longest_gap(self) -> float:
        return max((b - a for a, b in zip(self.deltas, self.deltas[1:], strict=False)), default=0.0)

    @property
    def prefill_speed(self) -> float:
        """Tokens of the prompt a second, where next to nothing of it was known."""
        return float(self.usage["prompt_tokens"] / self.first)

    @property
    def speed(self) -> float:
        """Tokens a second behind the first delta."""
        tokens: int = self.usage["completion_tokens"]
        seconds = self.deltas[-1] - self.deltas[0]
        return tokens * (len(self.deltas) - 1) / len(self.deltas) / seconds if seconds else 0.0


class Refused(Exception):
    """The server answered with something other than a whole stream."""


def said(text: str) -> Messages:
    return [{"role": "user", "content": text}]


async def ask(server: Server, messages: Messages, max_tokens: int, schema: JsonObject | None = None) -> Timed:
    """One streamed call; without a ``schema`` the answer has ``max_tokens`` tokens. Raises Refused."""
    body: dict[str, Any] = {
        "model": server.model,
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if schema is None:
        body["ignore_eos"] = True
    else:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    content = json.dumps(body).encode()
    host, _, port = server.url.removeprefix("http://").partition(":")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    timed, received = Timed(time.perf_counter()), []
    try:
        writer.write(head.encode() + content)
        while chunk := await reader.read(1 << 16):
            now = time.perf_counter()
            if b'"content":' in chunk:
                timed.deltas.append(now)
            received.append(chunk)
    finally:
        writer.close()
    read_events(b"".join(received), timed)
    timed.deltas = timed.deltas or [time.perf_counter()]
    return timed


def read_events(answer: bytes, timed: Timed) -> None:
    """Fills in text and usage. Raises Refused where the stream has no end."""
    for line in answer.splitlines():
        if line.startswith(b"data: {"):
            event = json.loads(line.removeprefix(b"data: "))
            timed.usage = event.get("usage") or timed.usage
            for choice in event.get("choices", ()):
                timed.text += choice["delta"].get("content") or ""
    if b"data: [DONE]" not in answer or not timed.usage:
        raise Refused(answer[-2000:].decode(errors="replace"))


async def ask_all(server: Server, prompts: Sequence[str], max_tokens: int) -> tuple[float, list[Timed]]:
    """All at once: completion tokens a second in sum, from the first request to the last byte; and each answer."""
    began = time.perf_counter()
    answers = await asyncio.gather(*[ask(server, said(prompt), max_tokens) for prompt in prompts])
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


async def conversation(server: Server, openings: Sequence[str], max_tokens: int) -> list[Timed]:
    """A chat of as many turns, each with all of what was said before."""
    messages: Messages = []
    answers = []
    for text in openings:
        messages += said(text)
        answers.append(await ask(server, messages, max_tokens))
        messages.append({"role": "assistant", "content": answers[-1].text})
    return answers


async def long_prompt_beside(server: Server, running: Sequence[str], prompt: str, tokens: int) -> tuple[float, float]:
    """Streams that run while a long prompt arrives: their longest gap, and the tokens a second of all in sum."""
    began = time.perf_counter()
    streams = [asyncio.create_task(ask(server, said(text), tokens)) for text in running]
    await asyncio.sleep(1)
    arrived = await ask(server, said(prompt), 2)
    answers = [*(await asyncio.gather(*streams)), arrived]
    seconds = time.perf_counter() - began
    whole = sum(sum(answer.usage[kind] for kind in ("prompt_tokens", "completion_tokens")) for answer in answers)
    return max(answer.longest_gap for answer in answers[:-1]), whole / seconds
