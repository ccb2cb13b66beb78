"""The messages of a chat completions body, read for the local model: text, tool calls and their results."""

from collections.abc import Mapping
from typing import Any, get_args

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import Message, Role, ToolCall

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
