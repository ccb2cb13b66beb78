"""A Messages body as a chat completions body, for targets that serve chat only.

What a chat cannot say is refused with INVALID_VALUE by its name. Left out without a word are the fields of IGNORED,
each for the reason that stands there, the thoughts of earlier turns, and where a client marks what may be cached.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.gateway.openai_api.fields import asks_for_nothing

Turn = dict[str, Any]
IGNORED: Mapping[str, str] = {
    "metadata": "bookkeeping of the caller's",
    "thinking": "models that think do so by themselves; the local model keeps within `budget_tokens`",
    "service_tier": "there is one tier",
    "cache_control": "prompts are cached without being asked for",
    "inference_geo": "where a call goes is the routing file's to say",
    "betas": "named features of Anthropic's; each has fields of its own, which are judged by themselves",
}
READ = frozenset(
    {"model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k", "stop_sequences", "tools"}
    | {"tool_choice", "output_format", "output_config", "context_management"}
)
NEUTRAL: Mapping[str, tuple[Any, ...]] = {"container": (), "mcp_servers": ([],)}
# of clients that bill through the system prompt: it changes with each call, and would spoil every cache of prompts
BILLING = re.compile(r"\s*x-anthropic-billing-header\s*:[^\n]*\n?", re.IGNORECASE)
# editing that concerns thoughts only, which are left out here anyway
HARMLESS_EDITS = "clear_thinking_"


def chat_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Raises an error of the tree that names the field."""
    for name, value in body.items():
        if name not in READ and name not in IGNORED and not asks_for_nothing(value, NEUTRAL.get(name, ())):
            raise InvalidValue(f"This model cannot honour {name[:100]}", field=name[:100])
    limit = body.get("max_tokens")
    if limit is None:
        raise MissingRequiredField("max_tokens: Field required", field="max_tokens")
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InvalidType("Max tokens must be an integer", field="max_tokens")
    if limit < 1:
        raise InvalidValue("Max tokens must be at least 1", field="max_tokens")
    _check_context_management(body.get("context_management"))
    chat: dict[str, Any] = {"model": body["model"], "messages": list(_messages(body)), "max_tokens": limit}
    chat |= {name: body[name] for name in ("temperature", "top_p", "top_k") if body.get(name) is not None}
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    tools = list(_tools(body.get("tools")))
    if tools:
        chat["tools"] = tools
    chat |= _tool_choice(body.get("tool_choice"), tools) | _output(body)
    if body.get("stream"):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


def is_prefilled(body: Mapping[str, Any]) -> bool:
    """Whether the last message is the beginning of the answer."""
    messages = body.get("messages")
    return isinstance(messages, list) and bool(messages) and messages[-1].get("role") == "assistant"


def thinking_budget(body: Mapping[str, Any]) -> int | None:
    """The most tokens of thoughts; None where the body sets none."""
    thinking = body.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
    return budget if isinstance(budget, int) and not isinstance(budget, bool) and budget >= 0 else None


def _messages(body: Mapping[str, Any]) -> Iterator[Turn]:
    system = _system(body.get("system"))
    if system:
        yield {"role": "system", "content": system}
    messages = body.get("messages")
    if messages is None:
        raise MissingRequiredField("messages: Field required", field="messages")
    if not isinstance(messages, list):
        raise InvalidType("Messages must be an array", field="messages")
    if not messages:
        raise InvalidValue("messages: at least one message is required", field="messages")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, Mapping):
            raise InvalidType("A message must be an object", field=where)
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant", "system"):
            raise InvalidValue("Role must be user or assistant", field=f"{where}.role")
        if not isinstance(content, str | list):
            raise InvalidType("Content must be a string or an array of blocks", field=f"{where}.content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        yield from _assistant_turns(blocks, where) if role == "assistant" else _user_turns(blocks, where, role)


def _system(system: Any) -> str:
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system or []
    if not isinstance(blocks, list):
        raise InvalidType("System must be a string or an array of blocks", field="system")
    texts = []
    for index, block in enumerate(blocks):
        if not isinstance(block, Mapping) or block.get("type") != "text":
            raise InvalidValue("System takes blocks of text", field=f"system.{index}.type")
        texts.append(BILLING.sub("", _string(block, "text", f"system.{index}"), count=1))
    return "\n".join(text for text in texts if text)


def _assistant_turns(blocks: Sequence[Any], where: str) -> Iterator[Turn]:
    """A turn of the assistant: its text and its calls in one message."""
    texts, calls = [], []
    for index, block in enumerate(blocks):
        at = f"{where}.content.{index}"
        kind = _kind(block, at)
        if kind == "text":
            texts.append(_string(block, "text", at))
        elif kind == "tool_use":
            arguments = json.dumps(_object(block, "input", at), ensure_ascii=False)
            function = {"name": _string(block, "name", at), "arguments": arguments}
            calls.append({"id": _string(block, "id", at), "type": "function", "function": function})
        elif kind not in ("thinking", "redacted_thinking"):
            raise InvalidValue(f"This model cannot take blocks of type {kind}", field=f"{at}.type")
    turn: Turn = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    yield {**turn, "tool_calls": calls} if calls else turn


def _user_turns(blocks: Sequence[Any], where: str, role: str) -> Iterator[Turn]:
    """A turn of the user: the results of calls first, as messages of their own, then the rest in one."""
    parts: list[Turn] = []
    for index, block in enumerate(blocks):
        at = f"{where}.content.{index}"
        if _kind(block, at) != "tool_result":
            parts.append(_part(block, at))
            continue
        content = block.get("content")
        inner = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        if not isinstance(inner, list):
            raise InvalidType("Content must be a string or an array of blocks", field=f"{at}.content")
        converted = [_part(one, f"{at}.content.{number}") for number, one in enumerate(inner)]
        text = "\n".join(part["text"] for part in converted if part["type"] == "text")
        # chat has text only in a result; what else there is follows in the user's own message
        parts += [part for part in converted if part["type"] != "text"]
        yield {"role": "tool", "tool_call_id": _string(block, "tool_use_id", at), "content": text}
    if not parts:
        return
    if all(part["type"] == "text" for part in parts):
        yield {"role": role, "content": "\n".join(part["text"] for part in parts)}
    else:
        yield {"role": role, "content": parts}


def _part(block: Any, at: str) -> Turn:
    kind = _kind(block, at)
    if kind == "text":
        return {"type": "text", "text": _string(block, "text", at)}
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": _source(block, at, "image")}}
    if kind == "document":
        source = _object(block, "source", at)
        title = f"{block['title']}\n" if isinstance(block.get("title"), str) else ""
        if source.get("type") == "text":
            return {"type": "text", "text": title + _string(source, "data", f"{at}.source")}
        name = block.get("title") if isinstance(block.get("title"), str) else "document.pdf"
        return {"type": "file", "file": {"filename": name, "file_data": _source(block, at, "document")}}
    if kind == "search_result":
        found = block.get("content") or []
        if not isinstance(found, list):
            raise InvalidType("Content must be an array of blocks", field=f"{at}.content")
        texts = [_string(one, "text", at) for one in found if isinstance(one, Mapping)]
        return {"type": "text", "text": "\n".join([f"{block.get('title')} ({block.get('source')})", *texts])}
    raise InvalidValue(f"This model cannot take blocks of type {kind}", field=f"{at}.type")


def _source(block: Mapping[str, Any], at: str, what: str) -> str:
    source = _object(block, "source", at)
    if source.get("type") == "base64":
        kind, data = _string(source, "media_type", f"{at}.source"), _string(source, "data", f"{at}.source")
        return f"data:{kind};base64,{data}"
    if source.get("type") == "url" and what == "image":
        return _string(source, "url", f"{at}.source")
    raise InvalidValue(f"This model cannot take such a source of {what}s", field=f"{at}.source.type")


def _tools(tools: Any) -> Iterator[Turn]:
    if tools is None:
        return
    if not isinstance(tools, list):
        raise InvalidType("Tools must be an array", field="tools")
    for index, tool in enumerate(tools):
        where = f"tools.{index}"
        if not isinstance(tool, Mapping):
            raise InvalidType("A tool must be an object", field=where)
        if tool.get("type") not in (None, "custom"):
            raise InvalidValue("This model takes tools of the caller's own only", field=f"{where}.type")
        function: dict[str, Any] = {"name": _string(tool, "name", where)}
        if isinstance(tool.get("description"), str):
            function["description"] = tool["description"]
        function["parameters"] = _object(tool, "input_schema", where)
        if tool.get("strict") is not None:
            function["strict"] = tool["strict"]
        yield {"type": "function", "function": function}


def _tool_choice(choice: Any, tools: Sequence[Turn]) -> dict[str, Any]:
    if choice is None:
        return {}
    if not isinstance(choice, Mapping):
        raise InvalidType("Tool choice must be an object", field="tool_choice")
    kinds: dict[Any, Any] = {"auto": "auto", "any": "required", "none": "none"}
    kind = choice.get("type")
    if kind == "tool":
        chosen: Any = {"type": "function", "function": {"name": _string(choice, "name", "tool_choice")}}
    elif kind in kinds:
        chosen = kinds[kind]
    else:
        raise InvalidValue("Tool choice must be auto, any, tool or none", field="tool_choice.type")
    if not tools and chosen in ("auto", "none"):
        return {}
    return {
        "tool_choice": chosen,
        **({"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {}),
    }


def _output(body: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of the answer; how much effort to spend is a hint that chat targets have no common word for."""
    config = body.get("output_config") or {}
    if not isinstance(config, Mapping):
        raise InvalidType("Output config must be an object", field="output_config")
    for name in config:
        if name not in ("format", "effort", "task_budget"):
            raise InvalidValue(
                f"This model cannot honour output_config.{name[:80]}", field=f"output_config.{name[:80]}"
            )
    form = body.get("output_format") or config.get("format")
    if form is None:
        return {}
    if (
        not isinstance(form, Mapping)
        or form.get("type") != "json_schema"
        or not isinstance(form.get("schema"), Mapping)
    ):
        raise InvalidValue("Output format must be a JSON schema", field="output_format")
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": form["schema"]}}}


def _check_context_management(management: Any) -> None:
    edits = management.get("edits") if isinstance(management, Mapping) else None
    if not isinstance(edits, list | None):
        raise InvalidType("Edits must be an array", field="context_management")
    for edit in edits or []:
        kind = str(edit.get("type")) if isinstance(edit, Mapping) else ""
        if not kind.startswith(HARMLESS_EDITS):
            raise InvalidValue("This model cannot edit its context", field="context_management")


def _kind(block: Any, at: str) -> str:
    if not isinstance(block, Mapping):
        raise InvalidType("A block must be an object", field=at)
    return str(block.get("type"))[:100]


def _string(block: Mapping[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if value is None:
        raise MissingRequiredField(f"{where}.{name}: Field required", field=f"{where}.{name}")
    if not isinstance(value, str):
        raise InvalidType(f"{where}.{name}: must be a string", field=f"{where}.{name}")
    return value


def _object(block: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = block.get(name)
    if value is None:
        raise MissingRequiredField(f"{where}.{name}: Field required", field=f"{where}.{name}")
    if not isinstance(value, Mapping):
        raise InvalidType(f"{where}.{name}: must be an object", field=f"{where}.{name}")
    return value
