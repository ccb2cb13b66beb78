"""The messages of a chat completions body, read for the local model: text, tool calls and their results.

tools, tool_choice and response_format of a chat completions body, read for the local model.

A chat completions body, read for the local model: what it cannot honour is refused by name, never dropped.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from apps.core.callers import ANONYMOUS, Caller
from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import ChatRequest, JsonObject, Message, Role, ToolCall

ROLES: tuple[Role, ...] = get_args(Role)
# parts of a message that would change the answer, and that a chat template has no place for
REFUSED = ("name", "audio", "function_call", "refusal")


def read_messages(messages: Any) -> tuple[Message, ...]:
    """Raises an error of the contract's table that names the field."""
    if messages is None:
        raise MissingRequiredField("Messages is required", field="messages")
    if not isinstance(messages, list):
        raise InvalidType("Messages must be an array", field="messages")
    if not messages:
        raise InvalidValue("Messages must not be empty", field="messages")
    read = tuple(_message(message, f"messages.{i}") for i, message in enumerate(messages))
    _check_results(read)
    return read


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise InvalidType("A message must be an object", field=where)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InvalidValue(f"Role must be one of {', '.join(ROLES)}", field=f"{where}.role")
    for name in REFUSED:
        # a result's name is the function's, which its call has told already
        if message.get(name) and (role, name) != ("tool", "name"):
            raise InvalidValue(f"The local model cannot honour {name} in a message", field=f"{where}.{name}")
    calls = _tool_calls(message.get("tool_calls"), role, where)
    if content is None and calls:
        content = ""
    if not isinstance(content, str | list):
        raise InvalidType("Content must be a string or an array of parts", field=f"{where}.content")
    if isinstance(content, list) and not all(isinstance(part, Mapping) for part in content):
        raise InvalidType("A content part must be an object", field=f"{where}.content")
    return Message(ROLES[ROLES.index(role)], content, calls, _call_id(message.get("tool_call_id"), role, where))


def _tool_calls(calls: Any, role: str, where: str) -> tuple[ToolCall, ...]:
    where = f"{where}.tool_calls"
    if not calls:
        return ()
    if role != "assistant":
        raise InvalidValue("Only the assistant makes tool calls", field=where)
    if not isinstance(calls, list):
        raise InvalidType("Tool calls must be an array", field=where)
    return tuple(_tool_call(call, f"{where}.{i}") for i, call in enumerate(calls))


def _tool_call(call: Any, where: str) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise InvalidValue("A tool call must be of a function", field=where)
    values = (call.get("id"), function.get("name"), function.get("arguments"))
    if not all(isinstance(value, str) for value in values):
        raise InvalidType("A tool call has id, function.name and function.arguments, all strings", field=where)
    return ToolCall(*(str(value) for value in values))


def _call_id(call_id: Any, role: str, where: str) -> str | None:
    if role != "tool":
        return None
    if call_id is None:
        raise MissingRequiredField("Tool call id is required", field=f"{where}.tool_call_id")
    if not isinstance(call_id, str):
        raise InvalidType("Tool call id must be a string", field=f"{where}.tool_call_id")
    return call_id


def _check_results(messages: tuple[Message, ...]) -> None:
    """A result belongs to a call that was made before it."""
    made: set[str] = set()
    for i, message in enumerate(messages):
        if message.role == "tool" and message.tool_call_id not in made:
            raise InvalidValue("No call before this result has its id", field=f"messages.{i}.tool_call_id")
        made.update(call.id for call in message.tool_calls)


NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MOST_TOOLS = 128
FORMATS = ("text", "json_object", "json_schema")


def read_tools(tools: Any) -> tuple[JsonObject, ...]:
    """Functions only, each with a name of its own. Raises an error of the contract's table that names the field."""
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise InvalidType("Tools must be an array", field="tools")
    if len(tools) > MOST_TOOLS:
        raise InvalidValue(f"Tools must be at most {MOST_TOOLS}", field="tools", details={"max": MOST_TOOLS})
    names: set[str] = set()
    for i, tool in enumerate(tools):
        name = _function_name(tool, f"tools.{i}")
        if name in names:
            raise InvalidValue(f"Two tools are named {name}", field=f"tools.{i}.function.name")
        names.add(name)
    return tuple(tools)


def read_tool_choice(choice: Any, tools: Sequence[JsonObject]) -> str | JsonObject | None:
    """none, auto, required, or one function by its name."""
    if choice is None or (not tools and choice in ("none", "auto")):
        return None
    if not tools:
        raise InvalidValue("Tool choice needs tools", field="tool_choice")
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise InvalidValue("Tool choice must be none, auto, required or a function", field="tool_choice")
        return choice
    function = choice.get("function") if isinstance(choice, Mapping) else None
    if not isinstance(function, Mapping) or choice.get("type") != "function":
        raise InvalidValue("Tool choice must be none, auto, required or a function", field="tool_choice")
    if function.get("name") not in [tool["function"]["name"] for tool in tools]:
        raise InvalidValue("Tool choice names no function of tools", field="tool_choice.function.name")
    return {"type": "function", "function": {"name": function["name"]}}


def read_response_format(form: Any) -> JsonObject | None:
    """None for plain text. A schema's own faults show when it is compiled."""
    if form is None:
        return None
    if not isinstance(form, Mapping):
        raise InvalidType("Response format must be an object", field="response_format")
    kind = form.get("type")
    if kind not in FORMATS:
        raise InvalidValue(f"Response format must be one of {', '.join(FORMATS)}", field="response_format.type")
    if kind == "json_schema":
        _check_schema(form.get("json_schema"))
    return None if kind == "text" else form


def _check_schema(wrapped: Any) -> None:
    where = "response_format.json_schema"
    if wrapped is None:
        raise MissingRequiredField("Json schema is required", field=where)
    if not isinstance(wrapped, Mapping):
        raise InvalidType("Json schema must be an object", field=where)
    if not isinstance(wrapped.get("name"), str) or not NAME.fullmatch(wrapped["name"]):
        raise InvalidValue(f"Name must match {NAME.pattern}", field=f"{where}.name")
    if not isinstance(wrapped.get("schema", {}), Mapping):
        raise InvalidType("Schema must be an object", field=f"{where}.schema")
    if not isinstance(wrapped.get("strict"), bool | None):
        raise InvalidType("Strict must be true or false", field=f"{where}.strict")


def _function_name(tool: Any, where: str) -> str:
    if not isinstance(tool, Mapping):
        raise InvalidType("A tool must be an object", field=where)
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, Mapping):
        raise InvalidValue("The local model takes tools of type function", field=f"{where}.type")
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidValue(f"Name must match {NAME.pattern}", field=f"{where}.function.name")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidType("Parameters must be a JSON schema", field=f"{where}.function.parameters")
    return name


# these change nothing about the answer's text, or are honoured elsewhere
HARMLESS = frozenset({"model", "messages", "stream", "user", "metadata", "store", "service_tier"})
HARMLESS |= {"safety_identifier", "prompt_cache_key"}
# these may stand there with the value that means "nothing special"
ONLY: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
}
LIMITS = ("max_completion_tokens", "max_tokens")
READ = frozenset({"temperature", "top_p", "stop", "seed", "n", "logprobs", "top_logprobs", "stream_options", *LIMITS})
READ |= {"tools", "tool_choice", "parallel_tool_calls", "response_format"}
MOST_TOKENS = 2000
MOST_STOPS = 4
MOST_CHOICES = 4
MOST_TOP_LOGPROBS = 20


def chat_request(body: Mapping[str, Any], caller: Caller = ANONYMOUS) -> ChatRequest:
    """One choice's request. Raises an error of the contract's table that names the field."""
    for name, value in body.items():
        if value is not None and name not in HARMLESS and name not in READ and value not in ONLY.get(name, ()):
            raise InvalidValue(f"The local model cannot honour {name[:100]}", field=name[:100])
    limits = [_integer(body, name, 1, MOST_TOKENS) for name in LIMITS]
    tools = read_tools(body.get("tools"))
    return ChatRequest(
        messages=read_messages(body.get("messages")),
        temperature=_number(body, "temperature", 0, 2),
        top_p=_number(body, "top_p", 0, 1),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        stop=_stop(body.get("stop")),
        seed=_integer(body, "seed", -(2**63), 2**63 - 1),
        tools=tools,
        tool_choice=read_tool_choice(body.get("tool_choice"), tools),
        parallel_tool_calls=_boolean(body, "parallel_tool_calls"),
        response_format=read_response_format(body.get("response_format")),
        top_logprobs=_top_logprobs(body),
        caller=caller,
    )


def choice_count(body: Mapping[str, Any]) -> int:
    """How many answers the caller wants."""
    count = _integer(body, "n", 1, MOST_CHOICES)
    return 1 if count is None else count


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether the stream ends with a chunk of usage."""
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, Mapping):
        raise InvalidType("Stream options must be an object", field="stream_options")
    if not body.get("stream"):
        raise InvalidValue("Stream options need stream", field="stream_options")
    return bool(_boolean(options, "include_usage"))


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted, top = _boolean(body, "logprobs"), _integer(body, "top_logprobs", 0, MOST_TOP_LOGPROBS)
    if top is not None and not wanted:
        raise InvalidValue("Top logprobs needs logprobs to be true", field="top_logprobs")
    return top or 0 if wanted else None


def _boolean(body: Mapping[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidType(f"{_label(name)} must be true or false", field=name)
    return value


def _number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidType(f"{_label(name)} must be a number", field=name)
    if not least <= value <= most:
        details = {"min": least, "max": most, "received": value}
        raise InvalidValue(f"{_label(name)} must be between {least} and {most}", field=name, details=details)
    return value


def _integer(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidType(f"{_label(name)} must be an integer", field=name)
    _number(body, name, least, most)
    return value


def _stop(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise InvalidType("Stop must be a string or an array of strings", field="stop")
    if len(stops) > MOST_STOPS or not all(stops):
        raise InvalidValue(f"Stop must be at most {MOST_STOPS} strings, none empty", field="stop")
    return tuple(stops)


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()
