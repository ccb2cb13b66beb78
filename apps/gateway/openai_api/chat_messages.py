"""The messages of a chat completions body, read for the local model: text, tool calls and their results."""

from collections.abc import Mapping
from typing import Any, get_args

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import Message, Role, ToolCall
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
