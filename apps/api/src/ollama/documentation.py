"""What the OpenAPI page says of Ollama's routes: bodies, answers and errors, with an example of each."""

from typing import Any

from apps.api.src.http.openapi import Responses, error_responses
from apps.api.src.ollama.answers import ollama_error, ollama_status
from apps.api.src.v1.documentation import ERRORS

SCHEMA = "OllamaError"
ERROR = {
    "type": "object",
    "required": ["error", "code", "status", "field", "details"],
    "properties": {
        "error": {"type": "string", "description": "The message"},
        "code": {"type": "string", "description": "The envelope's code"},
        "status": {"type": "integer"},
        "field": {"type": ["string", "null"]},
        "details": {"type": "object"},
    },
}
STRING = {"type": "string"}
OBJECT = {"type": "object"}
MODEL = {"type": "string", "description": "A name of GET /api/tags, or any that the default provider knows"}
SHARED = {
    "model": MODEL,
    "stream": {"type": "boolean", "default": True, "description": "JSON lines; one object where it is false"},
    "format": {"description": "json, or a JSON schema that the answer keeps to"},
    "options": {
        "type": "object",
        "description": "temperature, top_p, top_k, min_p, seed, num_predict, stop, repeat_penalty, presence_penalty, "
        "and frequency_penalty count; what is about the engine's memory and threads is ignored; any other is refused",
    },
    "keep_alive": {"description": "Ignored: the model stays loaded"},
}
NAME = "SmolLM2-135M-Instruct"
TIME = "2026-11-27T12:00:00Z"
TOTALS = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 812_000_000,
    "load_duration": 0,
    "prompt_eval_count": 9,
    "prompt_eval_duration": 61_000_000,
    "eval_count": 2,
    "eval_duration": 751_000_000,
}
HEAD = {"model": NAME, "created_at": TIME}
CHAT = {**HEAD, "message": {"role": "assistant", "content": "A language."}, **TOTALS}
POSTS: dict[str, tuple[dict[str, Any], list[str], Any, Any]] = {
    "/api/chat": (
        {**SHARED, "messages": {"type": "array", "items": OBJECT}, "tools": {"type": "array", "items": OBJECT}},
        ["model"],
        {"model": NAME, "messages": [{"role": "user", "content": "What is Python?"}], "stream": False},
        CHAT,
    ),
    "/api/generate": (
        {**SHARED, "prompt": STRING, "system": STRING, "raw": {"type": "boolean"}},
        ["model"],
        {"model": NAME, "prompt": "What is Python?", "stream": False},
        {**HEAD, "response": "A language.", **TOTALS},
    ),
    "/api/embed": (
        {"model": MODEL, "input": {"description": "One text or several"}, "truncate": {"type": "boolean"}},
        ["model", "input"],
        {"model": "all-MiniLM-L6-v2", "input": ["What is Python?"]},
        {"model": "all-MiniLM-L6-v2", "embeddings": [[0.0123, -0.0456]], "total_duration": 9, "prompt_eval_count": 6},
    ),
    "/api/embeddings": (
        {"model": MODEL, "prompt": STRING},
        ["model", "prompt"],
        {"model": "all-MiniLM-L6-v2", "prompt": "What is Python?"},
        {"embedding": [0.0123, -0.0456]},
    ),
    "/api/show": ({"model": MODEL}, ["model"], {"model": NAME}, {"details": {}, "capabilities": ["completion"]}),
}
GETS = {
    "/api/tags": {"models": [{"name": NAME, "model": NAME}]},
    "/api/ps": {"models": [{"name": NAME, "model": NAME}]},
    "/api/version": {"version": "0.13.0"},
}


def document_ollama(page: dict[str, Any]) -> dict[str, Any]:
    """The page with Ollama's routes in it."""
    page["components"]["schemas"][SCHEMA] = ERROR
    for path, (properties, required, example, answer) in POSTS.items():
        schema = {"type": "object", "required": required, "properties": properties, "additionalProperties": True}
        page["paths"][path]["post"] |= {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
            "responses": {"200": _answer(answer, path), **_errors()},
        }
    for path, answer in GETS.items():
        page["paths"][path]["get"]["responses"] = {"200": _answer(answer, path), **_errors()}
    return page


def _answer(example: Any, path: str) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": OBJECT, "example": example}}
    if path in ("/api/chat", "/api/generate"):
        content["application/x-ndjson"] = {"itemSchema": OBJECT, "example": example}
    return {"description": "Ollama's own shape", "content": content}


def _errors() -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{SCHEMA}"}
    responses: Responses = error_responses(*ERRORS, status=ollama_status, body=ollama_error, schema=reference)
    return {str(status): response for status, response in responses.items()}
