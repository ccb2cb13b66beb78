"""A chat completions body, read for the local model: what it cannot honour is refused by name, never dropped."""

from collections.abc import Mapping
from typing import Any

from apps.core.callers import ANONYMOUS, Caller
from apps.core.errors import InvalidType, InvalidValue
from apps.core.messages import ChatRequest
from apps.models.gateway.local_messages import read_messages
from apps.models.gateway.local_tools import read_response_format, read_tool_choice, read_tools

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
