"""What the mock upstream says beside chat: legacy completions, responses and embeddings of OpenAI's API.

Bytes and values only: no socket here (see mock_upstream.py).
"""

import base64
import struct
from typing import Any

from eval.mock_answers import CREATED, Body, event, usage_of

PATHS = ("/completions", "/responses", "/embeddings")
# beneath this, the mock is an upstream that knows chat alone
CHAT_ONLY = "/chat-only/"
FUTURE = b'{"x_future": {"a": [1, null]}, "id"'
DIMENSIONS = 8


def with_future_fields(data: bytes) -> bytes:
    """An answer or a chunk with fields that no client knows yet."""
    return data.replace(b'{"id"', FUTURE).replace(b'{"role"', b'{"x_part": "p", "role"')


def whole(path: str, body: Body, words: list[str]) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    if path.endswith("/embeddings"):
        return _embeddings(body)
    if path.endswith("/responses"):
        return _response(body, "completed", "".join(words), words)
    return {**_completion_chunk(body, "".join(words), "stop"), "usage": usage_of(words)}


def events(path: str, body: Body, words: list[str]) -> list[bytes]:
    """The events of a streamed answer."""
    if path.endswith("/responses"):
        return [b"event: " + one["type"].encode() + b"\n" + event(one) for one in _response_events(body, words)]
    tail = [event(_completion_chunk(body, "", "stop"))]
    if (body.get("stream_options") or {}).get("include_usage"):
        tail.append(event({**_completion_chunk(body, "", None), "choices": [], "usage": usage_of(words)}))
    return [*(event(_completion_chunk(body, word, None)) for word in words), *tail, b"data: [DONE]\n\n"]


def _completion_chunk(body: Body, text: str, finish: str | None) -> dict[str, Any]:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
    head = {"id": "cmpl-mock", "object": "text_completion", "created": CREATED, "model": body["model"]}
    return {**head, "choices": [choice]}


def _embeddings(body: Body) -> dict[str, Any]:
    given = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vectors = [[len(str(text)) / 64 + i for i in range(DIMENSIONS)] for text in given]
    as_base64 = body.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *v)).decode() if as_base64 else v,
        }
        for index, v in enumerate(vectors)
    ]
    usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def _response(body: Body, status: str, text: str, words: list[str]) -> dict[str, Any]:
    done = status == "completed"
    usage = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": len(words),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9 + len(words),
    }
    return {
        "id": "resp_mock",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "model": body["model"],
        "output": [_message(status, text)] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "usage": usage if done else None,
    }


def _message(status: str, text: str | None) -> dict[str, Any]:
    content = [] if text is None else [_part(text)]
    return {"id": "msg_mock", "type": "message", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response_events(body: Body, words: list[str]) -> list[dict[str, Any]]:
    text = "".join(words)
    item = {"item_id": "msg_mock", "output_index": 0, "content_index": 0}
    sequence: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response(body, "in_progress", "", words)},
        {"type": "response.in_progress", "response": _response(body, "in_progress", "", words)},
        {"type": "response.output_item.added", "output_index": 0, "item": _message("in_progress", None)},
        {"type": "response.content_part.added", **item, "part": _part("")},
        *({"type": "response.output_text.delta", **item, "delta": word, "logprobs": []} for word in words),
        {"type": "response.output_text.done", **item, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **item, "part": _part(text)},
        {"type": "response.output_item.done", "output_index": 0, "item": _message("completed", text)},
        {"type": "response.completed", "response": _response(body, "completed", text, words)},
    ]
    return [{**one, "sequence_number": number} for number, one in enumerate(sequence)]
