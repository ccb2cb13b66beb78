"""Ollama's bodies as bodies of OpenAI's API; what those cannot say is refused with INVALID_VALUE by its name.

Left out are the settings of Ollama's own engine (the sizes of batches, threads, memory) and how long a model is kept:
see IGNORED in apps/gateway/openai_api/fields.py.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.gateway.openai_api.fields import NEUTRAL, asks_for_nothing, refuse_others

Body = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool")
LATEST = ":latest"
# what an option is called in a chat
OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "num_predict": "max_tokens",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
OPTIONS_NEUTRAL = {
    **NEUTRAL,
    "low_vram": (True, False),
    "f16_kv": (True, False),
    "vocab_only": (False,),
    "numa": (True, False),
    "logits_all": (False,),
    "embedding_only": (False,),
}
# the first bytes of images, in Base64
IMAGES = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
COMMON = frozenset({"model", "name", "stream", "options", "format", "keep_alive", "think", "logprobs", "top_logprobs"})
CHAT = COMMON | {"messages", "tools"}
GENERATE = COMMON | {"prompt", "system", "raw", "images"}
EMBED = frozenset({"model", "name", "input", "truncate", "dimensions", "options", "keep_alive"})
ONLY: Mapping[str, tuple[Any, ...]] = {"suffix": ("",), "template": ("",), "context": ([],), "shift": (True, False)}
WHO = "This model"


def model_of(body: Mapping[str, Any]) -> str:
    """The name of the model; a tag of ``latest`` is what a name without one means."""
    name = body.get("model") or body.get("name")
    if name is None:
        raise MissingRequiredField("model is required", field="model")
    if not isinstance(name, str):
        raise InvalidType("model must be a string", field="model")
    return name.removesuffix(LATEST)


def is_load(body: Mapping[str, Any], what: str) -> bool:
    """Whether a call only wants the model to be loaded, or unloaded: nothing is asked in it."""
    return not body.get(what) and not body.get("images")


def wants_stream(body: Mapping[str, Any]) -> bool:
    """Ollama streams by default."""
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidType("stream must be true or false", field="stream")
    return stream is not False


def chat_body(body: Mapping[str, Any]) -> Body:
    """POST /api/chat as a chat completion."""
    refuse_others(body, CHAT, ONLY, WHO)
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise InvalidType("messages must be an array", field="messages")
    chat = {"messages": list(_messages(messages)), **_common(body)}
    if body.get("tools"):
        chat["tools"] = body["tools"]
    return chat


def generate_body(body: Mapping[str, Any]) -> Body:
    """POST /api/generate as a chat completion of one question."""
    refuse_others(body, GENERATE, ONLY, WHO)
    prompt, system = _text(body, "prompt"), _text(body, "system")
    messages: list[Body] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt, "images": body.get("images")})
    return {"messages": list(_messages(messages)), **_common(body)}


def raw_body(body: Mapping[str, Any]) -> Body:
    """POST /api/generate with ``raw`` as a completion of the bare prompt."""
    refuse_others(body, GENERATE, ONLY, WHO)
    for name in ("system", "images", "format"):
        if body.get(name):
            raise InvalidValue(f"A raw prompt has no {name}", field=name)
    completion = _common(body)
    completion.pop("logprobs", None)
    return {"prompt": _text(body, "prompt"), "max_tokens": 500, **completion}


def embeddings_body(body: Mapping[str, Any]) -> Body:
    """POST /api/embed as embeddings."""
    refuse_others(body, EMBED, ONLY, WHO)
    if body.get("input") is None:
        raise MissingRequiredField("input is required", field="input")
    _options(body)
    embeddings: Body = {"model": model_of(body), "input": body["input"], "encoding_format": "float"}
    if body.get("truncate") is not False:
        embeddings["truncation"] = True
    if body.get("dimensions") is not None:
        embeddings["dimensions"] = body["dimensions"]
    return embeddings


def _common(body: Mapping[str, Any]) -> Body:
    stream = wants_stream(body)
    chat: Body = {"model": model_of(body), "stream": stream, **_options(body), **_format(body.get("format"))}
    if stream:
        chat["stream_options"] = {"include_usage": True}
    if body.get("logprobs"):
        chat |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    think = body.get("think")
    if isinstance(think, str) and think not in ("", "none"):
        chat["reasoning_effort"] = think
    return chat


def _options(body: Mapping[str, Any]) -> Body:
    options = body.get("options")
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidType("options must be an object", field="options")
    try:
        refuse_others(options, OPTIONS, OPTIONS_NEUTRAL, WHO)
    except InvalidValue as error:
        error.field = f"options.{error.field}"
        raise
    chat = {OPTIONS[name]: value for name, value in options.items() if name in OPTIONS and value is not None}
    if isinstance(chat.get("max_tokens"), int) and chat["max_tokens"] < 1:
        # as many as there is room for
        del chat["max_tokens"]
    if asks_for_nothing(chat.get("stop"), ([], "")):
        chat.pop("stop", None)
    return chat


def _format(form: Any) -> Body:
    if asks_for_nothing(form, ("",)):
        return {}
    if form == "json":
        return {"response_format": {"type": "json_object"}}
    if not isinstance(form, Mapping):
        raise InvalidValue("format must be json or a JSON schema", field="format")
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}}


def _messages(messages: list[Any]) -> Iterator[Body]:
    """Calls and their results have no ids at Ollama: they are matched by name and order."""
    pending: deque[tuple[str, str]] = deque()
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, Mapping):
            raise InvalidType("A message must be an object", field=where)
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise InvalidValue(f"Role must be one of {', '.join(ROLES)}", field=f"{where}.role")
        if content is not None and not isinstance(content, str):
            raise InvalidType("content must be a string", field=f"{where}.content")
        turn: Body = {"role": role, "content": _with_images(content or "", message.get("images"), where)}
        if role == "assistant" and message.get("tool_calls"):
            calls = list(_calls(message["tool_calls"], index, where))
            pending.extend((call["function"]["name"], call["id"]) for call in calls)
            turn["tool_calls"] = calls
        if role == "assistant" and isinstance(message.get("thinking"), str) and message["thinking"]:
            turn["reasoning_content"] = message["thinking"]
        if role == "tool":
            turn["tool_call_id"] = _answered(message, pending, where)
        yield turn


def _with_images(text: str, images: Any, where: str) -> Any:
    if not images:
        return text
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise InvalidType("images must be an array of Base64", field=f"{where}.images")
    parts: list[Body] = [{"type": "text", "text": text}] if text else []
    for image in images:
        kind = next((kind for begins, kind in IMAGES.items() if image.startswith(begins)), "image/png")
        url = image if image.startswith("data:") else f"data:{kind};base64,{image}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def _calls(calls: Any, turn: int, where: str) -> Iterator[Body]:
    if not isinstance(calls, list):
        raise InvalidType("tool_calls must be an array", field=f"{where}.tool_calls")
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidValue("A tool call has a function with a name", field=f"{where}.tool_calls.{number}")
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        name = call["id"] if isinstance(call.get("id"), str) and call["id"] else f"call_{turn}_{number}"
        yield {"id": name, "type": "function", "function": {"name": function["name"], "arguments": text}}


def _answered(message: Mapping[str, Any], pending: deque[tuple[str, str]], where: str) -> str:
    """The id of the call that a result is of."""
    known = message.get("tool_call_id")
    for entry in pending:
        if entry[1] == known or (known is None and entry[0] == (message.get("tool_name") or message.get("name"))):
            pending.remove(entry)
            return entry[1]
    if known is None and pending:
        return pending.popleft()[1]
    raise InvalidValue("No call before this result has its name", field=f"{where}.tool_name")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidType(f"{name} must be a string", field=name)
    return value or ""
