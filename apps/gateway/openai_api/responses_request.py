"""The ``input`` of a Responses body as the messages of a chat: items in, turns out.

A Responses body as a chat completions body, for targets that serve chat only.

What a chat call cannot say is refused with INVALID_VALUE by its name; so are files by id.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.gateway.openai_api import fields
from apps.gateway.openai_api.chat_request import FORMS, SAMPLERS, THINKING_BUDGET, TOKEN_RULES
from apps.gateway.openai_api.stored_responses import referenced_id

Turn = dict[str, Any]
Items = Sequence[Mapping[str, Any]]
ROLES = ("user", "assistant", "system", "developer")


def messages_of(given: Any, instructions: str | None, before: Items = ()) -> list[Turn]:
    """Raises an error of the contract's table; its field names the item, as ``input.2.content``.

    ``before`` are the items of a conversation that goes on with ``given``.
    """
    turns: list[Turn] = [{"role": "system", "content": instructions}] if instructions else []
    for item in before:
        _add(turns, item, "previous_response_id")
    if given is None:
        raise MissingRequiredField("Input is required", field="input")
    if isinstance(given, str):
        if not given:
            raise InvalidValue("Input must not be empty", field="input")
        return [*turns, {"role": "user", "content": given}]
    if not isinstance(given, list):
        raise InvalidType("Input must be a string or an array of items", field="input")
    if not given:
        raise InvalidValue("Input must not be empty", field="input")
    for index, item in enumerate(given):
        _add(turns, item, f"input.{index}")
    if not turns:
        raise InvalidValue("Input must say something", field="input")
    return turns


def _add(turns: list[Turn], item: Any, where: str) -> None:
    if not isinstance(item, Mapping):
        raise InvalidType("An item must be an object", field=where)
    if (reference := referenced_id(item)) is not None:
        # those that are kept have been put in their places by now
        raise InvalidValue(
            f"No item {reference[:100]} is kept here (any more): send the item itself", field=f"{where}.id"
        )
    kind = item.get("type", "message")
    if kind == "message":
        turn = _message(item, where)
        if turn["role"] == "assistant" and turns and _is_thought(turns[-1]):
            turns[-1]["content"] = turn["content"]
        else:
            turns.append(turn)
    elif kind == "function_call":
        _add_call(turns, item, where)
    elif kind == "function_call_output":
        output = _content(item.get("output"), f"{where}.output")
        turns.append({"role": "tool", "tool_call_id": _string(item, "call_id", where), "content": output})
    elif kind == "reasoning":
        _add_reasoning(turns, item, where)
    else:
        raise InvalidValue(f"This model cannot take items of type {str(kind)[:100]}", field=f"{where}.type")


def _message(item: Mapping[str, Any], where: str) -> Turn:
    role = item.get("role")
    if role not in ROLES:
        raise InvalidValue(f"Role must be one of {', '.join(ROLES)}", field=f"{where}.role")
    return {"role": role, "content": _content(item.get("content"), f"{where}.content")}


def _add_call(turns: list[Turn], item: Mapping[str, Any], where: str) -> None:
    """What a model asked for in one turn is one message in a chat, text and all calls together."""
    name, namespace = _string(item, "name", where), item.get("namespace")
    name = in_namespace(namespace, name) if isinstance(namespace, str) else name
    function = {"name": name, "arguments": _string(item, "arguments", where)}
    call = {"id": _string(item, "call_id", where), "type": "function", "function": function}
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": None})
    turns[-1].setdefault("tool_calls", []).append(call)


def _add_reasoning(turns: list[Turn], item: Mapping[str, Any], where: str) -> None:
    """What the model thought before its next words. Encrypted thoughts cannot be read here."""
    parts = [*_parts(item, "summary", where), *_parts(item, "content", where)]
    text = "".join(_string(part, "text", where) for part in parts if isinstance(part, Mapping))
    if text:
        turns.append({"role": "assistant", "content": None, "reasoning_content": text})


def _parts(item: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = item.get(name)
    if value is not None and not isinstance(value, list):
        raise InvalidType(f"{name.capitalize()} must be an array of parts", field=f"{where}.{name}")
    return value or []


def _is_thought(turn: Turn) -> bool:
    """Whether a turn is what the model thought, and nothing else yet."""
    return "reasoning_content" in turn and turn["content"] is None and "tool_calls" not in turn


def _content(content: Any, where: str) -> Any:
    """Text, where there is nothing but text; else chat's content parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidType("Content must be a string or an array of parts", field=where)
    parts = [_part(part, f"{where}.{index}") for index, part in enumerate(content)]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Any, where: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise InvalidType("A content part must be an object", field=where)
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": _string(part, "text", where)}
    if kind == "refusal":
        return {"type": "refusal", "refusal": _string(part, "refusal", where)}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        image = {"url": part["image_url"], **({"detail": part["detail"]} if part.get("detail") else {})}
        return {"type": "image_url", "image_url": image}
    if kind == "input_image":
        raise InvalidValue("Files are not kept here: an image must come as image_url", field=f"{where}.file_id")
    raise InvalidValue(f"This model cannot take parts of type {str(kind)[:100]}", field=f"{where}.type")


def _string(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if value is None:
        raise MissingRequiredField(f"{name.replace('_', ' ').capitalize()} is required", field=f"{where}.{name}")
    if not isinstance(value, str):
        raise InvalidType(f"{name.replace('_', ' ').capitalize()} must be a string", field=f"{where}.{name}")
    return value


# the same word in both
SHARED = ("model", "temperature", "top_p", "parallel_tool_calls", "top_logprobs", "service_tier", "user")
# what this API has no word for, and clients of vLLM and llama.cpp send all the same: a chat's own words
PASSED = (SAMPLERS | FORMS | TOKEN_RULES | {THINKING_BUDGET, "include_reasoning", "chat_template_kwargs"}) - set(SHARED)
# these change nothing about the answer: the name, and why
IGNORED: Mapping[str, str] = {
    **{name: why for name, why in fields.IGNORED.items() if name != "store"},
    "metadata": "bookkeeping of the caller's, repeated in the answer",
    "safety_identifier": "bookkeeping of the caller's",
    "client_metadata": "bookkeeping of the caller's",
    "prompt_cache_key": "a hint for a cache of prompts; here it works by itself",
    "prompt_cache_retention": "a hint for a cache of prompts; here it works by itself",
}
READ = frozenset(
    {
        *SHARED,
        *PASSED,
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "text",
        "max_output_tokens",
        "reasoning",
        "stream",
        "store",
        "background",
    }
)
# why nothing here can honour them
STATEFUL: Mapping[str, str] = {
    "previous_response_id": "send the conversation in input",
    "conversation": "send the conversation in input",
    "prompt": "send instructions and input",
    "context_management": "send as much of the conversation as is to count",
}
LOGPROBS = "message.output_text.logprobs"
# thoughts that nothing encrypts here are told in any case
INCLUDED = ("reasoning.encrypted_content", LOGPROBS)
# these may stand there with the values that mean "nothing special"
ONLY: dict[str, tuple[Any, ...]] = {
    "truncation": ("disabled",),
    "include": ([], *([one] for one in INCLUDED), [*INCLUDED], [*reversed(INCLUDED)]),
    "stream_options": ({}, {"include_obfuscation": False}),
    "context_management": ([],),
    "top_logprobs": (0,),
}
# what a chat target calls it, and what the caller called it
FIELDS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "logprobs": "include",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}


def chat_body(body: Mapping[str, Any], before: Items = ()) -> dict[str, Any]:
    """Raises an error of the contract's table that names the field. ``before`` as of `messages_of`."""
    _refuse(body)
    names = (name for name in (*SHARED, *sorted(PASSED)) if name not in ONLY)
    chat = {name: body[name] for name in names if body.get(name) is not None}
    chat["messages"] = messages_of(body.get("input"), _text(body, "instructions"), before)
    if LOGPROBS in (body.get("include") or ()):
        chat |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    limit = body.get("max_output_tokens")
    if limit is not None:
        if isinstance(limit, int) and limit < 1:
            raise InvalidValue("Max output tokens must be at least 1", field="max_output_tokens")
        chat["max_tokens"] = limit
    tools = flat_tools(body.get("tools"))
    if tools:
        chat["tools"] = [{"type": "function", "function": {"name": tool.flat_name, **tool.function}} for tool in tools]
    if body.get("tool_choice") is not None:
        chat["tool_choice"] = _tool_choice(body["tool_choice"], tools)
    chat |= _text_options(_object(body, "text")) | _reasoning_options(_object(body, "reasoning"))
    if body.get("stream"):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


def _refuse(body: Mapping[str, Any]) -> None:
    included = body.get("include")
    logprobs = isinstance(included, list) and LOGPROBS in included
    for name, value in body.items():
        if value is None or value in ONLY.get(name, ()) or (name == "top_logprobs" and logprobs):
            continue
        if name not in READ and name not in ONLY and fields.asks_for_nothing(value, fields.NEUTRAL.get(name, ())):
            continue
        if name in STATEFUL:
            raise InvalidValue(f"This model cannot honour {name}: {STATEFUL[name]}", field=name)
        if name in ("store", "background") and not isinstance(value, bool):
            raise InvalidType(f"{name.capitalize()} must be true or false", field=name)
        if name in ONLY or (name not in READ and name not in IGNORED):
            raise InvalidValue(f"This model cannot honour {name[:100]}", field=name[:100])


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidType(f"{name.capitalize()} must be a string", field=name)
    return value


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise InvalidType(f"{name.capitalize()} must be an object", field=name)
    return value or {}


class FlatTool(NamedTuple):
    """A function as a chat has it: ``where`` it stands in the body, and the ``namespace`` that its ``name`` is of."""

    where: str
    namespace: str | None
    name: str
    function: dict[str, Any]

    @property
    def flat_name(self) -> str:
        """The name that the model calls it by."""
        return self.name if self.namespace is None else in_namespace(self.namespace, self.name)


def in_namespace(namespace: str, name: str) -> str:
    return f"{namespace}__{name}"


def flat_tools(tools: Any) -> list[FlatTool]:
    """The functions, those of namespaces among them. Raises an error of the contract's table that names the field."""
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise InvalidType("Tools must be an array", field="tools")
    return [one for index, tool in enumerate(tools) for one in _flat(tool, f"tools.{index}")]


def _flat(tool: Any, where: str) -> Iterator[FlatTool]:
    if not isinstance(tool, Mapping):
        raise InvalidType("A tool must be an object", field=where)
    if tool.get("type") != "namespace":
        yield _function_tool(tool, where)
        return
    namespace, inner = _name(tool, where), tool.get("tools")
    if not isinstance(inner, list):
        raise InvalidType("Tools must be an array", field=f"{where}.tools")
    for index, one in enumerate(inner):
        at = f"{where}.tools.{index}"
        if not isinstance(one, Mapping):
            raise InvalidType("A tool must be an object", field=at)
        about = [text for text in (tool.get("description"), one.get("description")) if isinstance(text, str) and text]
        described = {**one, "description": "\n".join(about)} if about else one
        yield _function_tool(described, at, namespace)


def _function_tool(tool: Mapping[str, Any], where: str, namespace: str | None = None) -> FlatTool:
    if tool.get("type") != "function":
        raise InvalidValue("This model takes function tools only", field=f"{where}.type")
    known = {name: tool.get(name) for name in ("description", "parameters", "strict")}
    function = {name: value for name, value in known.items() if value is not None}
    return FlatTool(where, namespace, _name(tool, where), function)


def _name(tool: Mapping[str, Any], where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str):
        raise MissingRequiredField("Name is required", field=f"{where}.name")
    return name


def _tool_choice(choice: Any, tools: Sequence[FlatTool]) -> Any:
    if choice in ("none", "auto", "required"):
        return choice
    if not isinstance(choice, Mapping) or choice.get("type") != "function" or not isinstance(choice.get("name"), str):
        raise InvalidValue("Tool choice must be none, auto, required or a function by its name", field="tool_choice")
    name = choice["name"]
    if name not in [tool.flat_name for tool in tools]:
        within = [tool.flat_name for tool in tools if tool.name == name]
        if len(within) > 1:
            raise InvalidValue(f"Tool choice is one of {', '.join(within)}", field="tool_choice")
        name = within[0] if within else name
    return {"type": "function", "function": {"name": name}}


def _text_options(text: Mapping[str, Any]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    for name in text:
        if name not in ("format", "verbosity"):
            raise InvalidValue(f"This model cannot honour text.{name[:100]}", field=f"text.{name[:100]}")
    form = text.get("format")
    if form is not None:
        if not isinstance(form, Mapping):
            raise InvalidType("Text format must be an object", field="text.format")
        chat["response_format"] = _response_format(form)
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    return chat


def _response_format(form: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same three kinds; chat holds the schema one level deeper."""
    if form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {name: form[name] for name in form if name != "type"}}


def _reasoning_options(reasoning: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in reasoning.items():
        if name != "effort" and value is not None:
            raise InvalidValue(f"This model cannot honour reasoning.{name[:100]}", field=f"reasoning.{name[:100]}")
    return {} if reasoning.get("effort") is None else {"reasoning_effort": reasoning["effort"]}
