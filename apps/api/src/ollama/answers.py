"""Answers of OpenAI's API as Ollama's: whole ones, streams of JSON lines, and errors.

An error is the message alone, and the envelope's other keys beside it.
"""

import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from apps.api.src.http.error_shapes import openai_status
from apps.core.deltas import Forwarded
from apps.core.errors import AppError, UpstreamError, UpstreamRejected
from apps.models.event_stream import EventStreamDecoder

DONE_REASONS = {"length": "length"}
NANOSECONDS = 1_000_000_000
Written = Callable[[dict[str, Any]], dict[str, Any]]


class Lines:
    """One answer. ``chat``: as a message, else as the bare ``response`` of /api/generate."""

    def __init__(self, model: str, *, chat: bool) -> None:
        self._model = model
        self._chat = chat
        self._began = time.perf_counter()
        self._first: float | None = None
        self._calls: dict[int, dict[str, str]] = {}
        self._usage: Mapping[str, Any] = {}
        self._finish: str | None = None

    @property
    def finished(self) -> bool:
        return self._finish is not None

    def feed(self, chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The lines that a chunk of a chat or of a completion makes; a whole answer counts as one chunk."""
        if isinstance(chunk.get("usage"), Mapping):
            self._usage = chunk["usage"]
        lines: list[dict[str, Any]] = []
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            text = _text(delta.get("content")) or _text(delta.get("refusal"))
            message: dict[str, Any] = {"content": text}
            if isinstance(thought, str) and thought:
                message["thinking"] = thought
            for position, piece in enumerate(delta.get("tool_calls") or []):
                self._collect(piece, position)
            if text or "thinking" in message:
                self._first = self._first or time.perf_counter()
                logprobs = (choice.get("logprobs") or {}).get("content")
                lines.append(self._line(message) | ({"logprobs": logprobs} if logprobs else {}))
            self._finish = choice.get("finish_reason") or self._finish
        return lines

    def end(self) -> list[dict[str, Any]]:
        """The calls, whole, and the last line."""
        calls = [self._call(index, call) for index, call in sorted(self._calls.items())]
        lines = [self._line({"content": "", "tool_calls": calls})] if calls else []
        return [*lines, self._line({"content": ""}) | self._totals()]

    def whole(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """The one object of an answer that is not streamed. When it began is not known: all of the time is its own."""
        self._first = self._began
        lines = self.feed(chunk)
        *called, last = self.end()
        merged: dict[str, Any] = {"content": ""}
        for line in [*lines, *called]:
            part = line["message"] if self._chat else {"content": line["response"], **_extra(line)}
            merged |= {name: value for name, value in part.items() if name not in ("content", "role")}
            merged["content"] += part["content"]
        logprobs = next((line["logprobs"] for line in lines if "logprobs" in line), None)
        return (
            self._line(merged)
            | {name: last[name] for name in last if name not in ("message", "response")}
            | ({"logprobs": logprobs} if logprobs else {})
        )

    def embedded(self, vectors: list[Any], usage: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a call for embeddings."""
        return {
            "model": self._model,
            "embeddings": vectors,
            "total_duration": _ns(time.perf_counter() - self._began),
            "load_duration": 0,
            "prompt_eval_count": usage.get("prompt_tokens") or 0,
        }

    def loaded(self, reason: str) -> dict[str, Any]:
        """The answer to a call that asks nothing."""
        return self._line({"content": ""}) | {"done": True, "done_reason": reason}

    def _line(self, message: dict[str, Any]) -> dict[str, Any]:
        head = {"model": self._model, "created_at": now()}
        if self._chat:
            return {**head, "message": {"role": "assistant", **message}, "done": False}
        text = message.pop("content")
        return {**head, "response": text, **message, "done": False}

    def _totals(self) -> dict[str, Any]:
        ended = time.perf_counter()
        first = self._first or ended
        return {
            "done": True,
            "done_reason": DONE_REASONS.get(self._finish or "", "stop"),
            "total_duration": _ns(ended - self._began),
            "load_duration": 0,
            "prompt_eval_count": self._usage.get("prompt_tokens") or 0,
            "prompt_eval_duration": _ns(first - self._began),
            "eval_count": self._usage.get("completion_tokens") or 0,
            "eval_duration": _ns(ended - first),
        }

    def _collect(self, piece: Mapping[str, Any], position: int) -> None:
        index = piece["index"] if isinstance(piece.get("index"), int) else position
        function = piece.get("function") or {}
        call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        call["id"] = piece.get("id") or call["id"]
        call["name"] = call["name"] or function.get("name") or ""
        arguments = function.get("arguments") or ""
        call["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)

    def _call(self, index: int, call: Mapping[str, str]) -> dict[str, Any]:
        try:
            arguments = json.loads(call["arguments"] or "{}")
        except (ValueError, RecursionError):
            arguments = {}
        function = {"index": index, "name": call["name"], "arguments": arguments if isinstance(arguments, dict) else {}}
        return {"id": call["id"], "function": function}


async def json_lines(frames: AsyncGenerator[bytes, None], lines: Lines) -> AsyncGenerator[bytes, None]:
    """The frames of a stream of OpenAI's as Ollama's lines. Raises UpstreamError where it is none."""
    decoder = EventStreamDecoder()
    async with Forwarded(frames):
        async for frame in frames:
            ready: list[dict[str, Any]] = []
            for event in decoder.feed(frame):
                if event.data and event.data != b"[DONE]":
                    ready += lines.feed(parsed(event.data))
            if ready:
                yield b"".join(map(written, ready))
    if not lines.finished:
        raise UpstreamError("The model's answer was cut off before its end")
    yield b"".join(map(written, lines.end()))


def parsed(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UpstreamError("The upstream's answer could not be understood")
    return value


def written(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _extra(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in ("thinking", "tool_calls") if name in line}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _ns(seconds: float) -> int:
    return int(seconds * NANOSECONDS)


ollama_status = openai_status


def ollama_error(error: AppError) -> dict[str, Any]:
    """The body of an error on Ollama's routes."""
    fields = error.envelope()["error"] | {"status": openai_status(error)}
    message = fields.pop("message")
    return {"error": error.rejection.message if isinstance(error, UpstreamRejected) else message, **fields}
