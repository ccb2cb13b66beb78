"""A chat completions body, read for the local model: what it cannot honour is refused by name, never dropped."""

from collections.abc import Mapping
from typing import Any, get_args

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import ChatRequest, Message, Role

# these change nothing about the answer's text, or are honoured elsewhere
HARMLESS = frozenset({"model", "messages", "stream", "stream_options", "user", "metadata", "store", "service_tier"})
# these may stand there with the value that means "nothing special"
ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
}
ROLES: tuple[Role, ...] = get_args(Role)
MOST_TOKENS = 2000
MOST_STOPS = 4


def chat_request(body: Mapping[str, Any]) -> ChatRequest:
    """Raises an error of the contract's table that names the field."""
    for name, value in body.items():
        if value is not None and name not in HARMLESS and name not in READ and value not in ONLY.get(name, ()):
            raise InvalidValue(f"The local model cannot honour {name[:100]}", field=name[:100])
    limits = [body.get(name) for name in ("max_completion_tokens", "max_tokens")]
    return ChatRequest(
        messages=_messages(body.get("messages")),
        temperature=_number(body, "temperature", 0, 2),
        top_p=_number(body, "top_p", 0, 1),
        max_tokens=next((_integer(body, n, 1, MOST_TOKENS) for n, v in zip(LIMITS, limits, strict=True) if v), None),
        stop=_stop(body.get("stop")),
        seed=_integer(body, "seed", -(2**63), 2**63 - 1),
    )


LIMITS = ("max_completion_tokens", "max_tokens")
READ = frozenset({"temperature", "top_p", "stop", "seed", *LIMITS})


def _messages(messages: Any) -> tuple[Message, ...]:
    if messages is None:
        raise MissingRequiredField("Messages is required", field="messages")
    if not isinstance(messages, list):
        raise InvalidType("Messages must be an array", field="messages")
    if not messages:
        raise InvalidValue("Messages must not be empty", field="messages")
    return tuple(_message(message, f"messages.{i}") for i, message in enumerate(messages))


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise InvalidType("A message must be an object", field=where)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InvalidValue(f"Role must be one of {', '.join(ROLES)}", field=f"{where}.role")
    if not isinstance(content, str | list):
        raise InvalidType("Content must be a string or an array of parts", field=f"{where}.content")
    return Message(ROLES[ROLES.index(role)], content)


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
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise InvalidType("Stop must be a string or an array of strings", field="stop")
    if len(stops) > MOST_STOPS or not all(stops):
        raise InvalidValue(f"Stop must be at most {MOST_STOPS} strings, none empty", field="stop")
    return tuple(stops)


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()
