"""What the mock upstream says: bodies and stream events of OpenAI's chat API, and behaviours read off a model's name.

Bytes and values only: no socket here (see mock_upstream.py).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Body = Mapping[str, Any]
CREATED = 1_700_000_000
LEXICON = ("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "while", "seven", "wizards", "mix")
NUMBERED = re.compile(r"(slow|fault|flaky)-(\d+)(?:-(\d+))?")
FAULTS = frozenset({"hang", "rst", "cut", "stall", "badjson", "error", "nofinish", "200error"})
NAMED = frozenset({"echo", "tool-call", "future", "no-options", "no-usage"})
MODELS = {
    "object": "list",
    "data": [{"id": "gpt-4o-mini", "object": "model", "created": CREATED, "owned_by": "mock"}],
}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How to treat a call. ``kind`` is ``answer``, ``slow``, ``status``, ``flaky``, a fault, or the name itself.

    Names that are kinds of their own stand in NAMED.

    ``number`` is milliseconds (slow), a status (status) or a count of failures (flaky); ``retry_after`` is seconds.
    """

    kind: str
    number: int = 0
    retry_after: int | None = None


def behaviour_of(model: str) -> Behaviour:
    """The behaviour that a model's name asks for; a name that asks for none is answered normally."""
    if model in NAMED:
        return Behaviour(model)
    if model.removeprefix("fault-") in FAULTS and model.startswith("fault-"):
        return Behaviour(model.removeprefix("fault-"))
    if not (match := NUMBERED.fullmatch(model)):
        return Behaviour("answer")
    kind, number, extra = match.group(1), int(match.group(2)), match.group(3)
    if kind != "fault":
        return Behaviour(kind, number)
    return Behaviour("status", number, int(extra) if extra else 2 if number == 429 else None)


def words_of(body: Body, behaviour: Behaviour, count: int) -> list[str]:
    """The tokens of an answer: ``count`` words, or each character of the last message for ``echo``."""
    if behaviour.kind == "echo":
        return list(_text(body["messages"][-1]["content"]))
    return [LEXICON[i % len(LEXICON)] + " " for i in range(count)]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def usage_of(words: list[str]) -> dict[str, int]:
    return {"prompt_tokens": 9, "completion_tokens": len(words), "total_tokens": 9 + len(words)}


def error_body(message: str, kind: str = "mock_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def completion(model: str, words: list[str]) -> bytes:
    """The body of a whole answer."""
    return _completion(model, {"content": "".join(words)}, "stop", words)


def tool_completion(model: str, body: Body) -> bytes:
    call = {"id": "call_mock", "type": "function", "function": {"name": _tool_name(body), "arguments": '{"a": 1}'}}
    return _completion(model, {"content": None, "tool_calls": [call]}, "tool_calls", [])


def _completion(model: str, message: dict[str, Any], finish: str, words: list[str]) -> bytes:
    choice = {
        "index": 0,
        "finish_reason": finish,
        "logprobs": None,
        "message": {"role": "assistant", "refusal": None, **message},
    }
    answer = {"id": "chatcmpl-mock", "object": "chat.completion", "created": CREATED, "model": model}
    return json.dumps({**answer, "usage": usage_of(words), "choices": [choice]}).encode()


def event(data: Body) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chunk(model: str, delta: Body, finish: str | None = None) -> bytes:
    """One event of a streamed answer."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({**_chunk_head(model), "choices": [choice]})


def _chunk_head(model: str) -> dict[str, Any]:
    return {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": CREATED, "model": model}


def stream_head(model: str) -> bytes:
    return chunk(model, {"role": "assistant", "content": ""})


def stream_tail(model: str, body: Body, words: list[str], finish: str = "stop") -> list[bytes]:
    """The events after the last token; usage only where the call asked for it."""
    tail = [chunk(model, {}, finish)]
    if (body.get("stream_options") or {}).get("include_usage") and model != "no-usage":
        tail.append(event({**_chunk_head(model), "choices": [], "usage": usage_of(words)}))
    return [*tail, b"data: [DONE]\n\n"]


def tool_stream(model: str, body: Body) -> list[bytes]:
    """A streamed tool call, its arguments in two pieces."""
    opening = {"index": 0, "id": "call_mock", "type": "function"}
    first = {**opening, "function": {"name": _tool_name(body), "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": text}} for text in ('{"a"', ": 1}")]
    calls = [chunk(model, {"tool_calls": [piece]}) for piece in (first, *pieces)]
    return [stream_head(model), *calls, *stream_tail(model, body, [], "tool_calls")]


def _tool_name(body: Body) -> str:
    tools = body.get("tools") or []
    return str(tools[0]["function"]["name"]) if tools else "mock_tool"
