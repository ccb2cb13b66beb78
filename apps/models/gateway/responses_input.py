"""The ``input`` of a Responses body as the messages of a chat: items in, turns out."""

from collections.abc import Mapping
from typing import Any

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField

Turn = dict[str, Any]
ROLES = ("user", "assistant", "system", "developer")


def messages_of(given: Any, instructions: str | None) -> list[Turn]:
    """Raises an error of the contract's table; its field names the item, as ``input.2.content``."""
    turns: list[Turn] = [{"role": "system", "content": instructions}] if instructions else []
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
    return turns


def _add(turns: list[Turn], item: Any, where: str) -> None:
    if not isinstance(item, Mapping):
        raise InvalidType("An item must be an object", field=where)
    kind = item.get("type", "message")
    if kind == "message":
        turns.append(_message(item, where))
    elif kind == "function_call":
        _add_call(turns, item, where)
    elif kind == "function_call_output":
        output = _content(item.get("output"), f"{where}.output")
        turns.append({"role": "tool", "tool_call_id": _string(item, "call_id", where), "content": output})
    elif kind == "item_reference":
        raise InvalidValue("Nothing is stored here: item_reference cannot be honoured", field=f"{where}.type")
    else:
        raise InvalidValue(f"This model cannot take items of type {str(kind)[:100]}", field=f"{where}.type")


def _message(item: Mapping[str, Any], where: str) -> Turn:
    role = item.get("role")
    if role not in ROLES:
        raise InvalidValue(f"Role must be one of {', '.join(ROLES)}", field=f"{where}.role")
    return {"role": role, "content": _content(item.get("content"), f"{where}.content")}


def _add_call(turns: list[Turn], item: Mapping[str, Any], where: str) -> None:
    """What a model asked for in one turn is one message in a chat, text and all calls together."""
    function = {"name": _string(item, "name", where), "arguments": _string(item, "arguments", where)}
    call = {"id": _string(item, "call_id", where), "type": "function", "function": function}
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": None})
    turns[-1].setdefault("tool_calls", []).append(call)


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
        raise InvalidValue("Nothing is stored here: an image must come as image_url", field=f"{where}.file_id")
    raise InvalidValue(f"This model cannot take parts of type {str(kind)[:100]}", field=f"{where}.type")


def _string(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if value is None:
        raise MissingRequiredField(f"{name.replace('_', ' ').capitalize()} is required", field=f"{where}.{name}")
    if not isinstance(value, str):
        raise InvalidType(f"{name.replace('_', ' ').capitalize()} must be a string", field=f"{where}.{name}")
    return value
