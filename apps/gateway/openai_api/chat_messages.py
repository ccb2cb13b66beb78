"""Messages, tools, tool_choice and response_format of a chat completions body, read for the local model."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import JsonObject, Message, Role, ToolCall
from apps.gateway.openai_api.fields import label

ROLES: tuple[Role, ...] = get_args(Role)
# parts of a message that would change the answer, and that a chat template has no place for
REFUSED = ("audio", "function_call")
REASONING = ("reasoning_content", "reasoning", "thinking")


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
        if message.get(name):
            raise InvalidValue(f"The local model cannot honour {name} in a message", field=f"{where}.{name}")
    calls = _tool_calls(message.get("tool_calls"), role, where)
    if content is None and role == "assistant":
        # what a model refused is what it said; a turn may hold calls or thoughts alone
        content = _string(message, "refusal", where) or ("" if calls or _reasoning(message) else None)
    if not isinstance(content, str | list):
        raise InvalidType("Content must be a string or an array of parts", field=f"{where}.content")
    if isinstance(content, list) and not all(isinstance(part, Mapping) for part in content):
        raise InvalidType("A content part must be an object", field=f"{where}.content")
    return Message(
        ROLES[ROLES.index(role)],
        _with_refusals(content) if isinstance(content, list) else content,
        calls,
        _call_id(message.get("tool_call_id"), role, where),
        name=_string(message, "name", where) or None,
        reasoning=_reasoning(message) if role == "assistant" else None,
    )


def _with_refusals(parts: list[Any]) -> list[Any]:
    """A refusal in an assistant's turn is text that it said."""
    return [{"type": "text", "text": part["refusal"]} if part.get("type") == "refusal" else part for part in parts]


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """What the assistant thought, by either of its names."""
    return next((text for name in REASONING if isinstance(text := message.get(name), str) and text), None)


def _string(message: Mapping[str, Any], name: str, where: str) -> str | None:
    value = message.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidType(f"{label(name)} must be a string", field=f"{where}.{name}")
    return value


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


NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
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
    if kind != "text" and isinstance(form.get("schema"), Mapping) and "json_schema" not in form:
        # llama.cpp's way to write a schema, and Together's
        return schema_format(form["schema"])
    if kind == "json_schema":
        _check_schema(form.get("json_schema"))
    return None if kind == "text" else form


def schema_format(schema: JsonObject) -> JsonObject:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _check_schema(wrapped: Any) -> None:
    where = "response_format.json_schema"
    if wrapped is None:
        raise MissingRequiredField("Json schema is required", field=where)
    if not isinstance(wrapped, Mapping):
        raise InvalidType("Json schema must be an object", field=where)
    # some clients give it no name, and nothing here depends on one
    if wrapped.get("name") is not None and not (isinstance(wrapped["name"], str) and NAME.fullmatch(wrapped["name"])):
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
