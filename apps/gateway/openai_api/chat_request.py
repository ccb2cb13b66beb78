"""The messages of a chat completions body, read for the local model: text, tool calls and their results.

tools, tool_choice and response_format of a chat completions body, read for the local model.

A chat completions body, read for the local model: what it cannot honour is refused by name, never dropped.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from apps.core.callers import ANONYMOUS, Caller
from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import ChatRequest, JsonObject, Message, Role, ToolCall
from apps.core.strict_json import read_json_text
from apps.gateway.openai_api.fields import asks_for_nothing, refuse_others

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
        raise InvalidType(f"{_label(name)} must be a string", field=f"{where}.{name}")
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
        return _schema_format(form["schema"])
    if kind == "json_schema":
        _check_schema(form.get("json_schema"))
    return None if kind == "text" else form


def _schema_format(schema: JsonObject) -> JsonObject:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


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


LIMITS = ("max_completion_tokens", "max_tokens", "n_predict", "max_new_tokens")
SAMPLERS = frozenset({"temperature", "top_p", "stop", "seed", "top_k", "min_p", "repetition_penalty", "repeat_penalty"})
SAMPLERS |= {"frequency_penalty", "presence_penalty", "logit_bias", "min_tokens", "ignore_eos"}
READ = frozenset({"model", "messages", "stream", "stream_options", "n", "logprobs", "top_logprobs", *LIMITS, *SAMPLERS})
READ |= {"tools", "tool_choice", "parallel_tool_calls", "response_format"}
READ |= {"continue_final_message", "add_generation_prompt", "documents", "chat_template_kwargs"}
FORMS = frozenset(
    {"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "json_schema"}
)
FORMS |= {"grammar"}
STREAM_NEUTRAL: Mapping[str, tuple[Any, ...]] = {"continuous_usage_stats": (False,), "include_obfuscation": (False,)}
MOST_STOPS = 64
MOST_CHOICES = 4
MOST_TOP_LOGPROBS = 20
MOST_BIASES = 1024
LARGEST = 2**31 - 1


def chat_request(body: Mapping[str, Any], caller: Caller = ANONYMOUS) -> ChatRequest:
    """One choice's request. Raises an error of the contract's table that names the field."""
    refuse_others(body, READ | FORMS)
    tools = read_tools(body.get("tools"))
    messages = read_messages(body.get("messages"))
    return replace(
        sampled(body),
        messages=messages,
        tools=tools,
        tool_choice=read_tool_choice(body.get("tool_choice"), tools),
        parallel_tool_calls=read_boolean(body, "parallel_tool_calls"),
        top_logprobs=_top_logprobs(body),
        continue_final_message=_continues(body, messages),
        documents=_objects(body, "documents"),
        template_arguments=_object(body, "chat_template_kwargs") or None,
        caller=caller,
        **read_form(body),
    )


def sampled(body: Mapping[str, Any]) -> ChatRequest:
    """A request without messages, with what chat and text completions have in common: limits and samplers."""
    limits = [_limit(body, name) for name in LIMITS]
    top_k = read_integer(body, "top_k", -1, LARGEST)
    penalties = [read_number(body, name, 0.01, 10) for name in ("repetition_penalty", "repeat_penalty")]
    return ChatRequest(
        messages=(),
        temperature=read_number(body, "temperature", 0, 2),
        top_p=read_number(body, "top_p", 0, 1),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        stop=_stop(body.get("stop")),
        seed=read_integer(body, "seed", -(2**63), 2**63 - 1),
        top_k=None if top_k is None or top_k <= 0 else top_k,
        min_p=read_number(body, "min_p", 0, 1) or None,
        repetition_penalty=next((p for p in penalties if p not in (None, 1)), None),
        frequency_penalty=read_number(body, "frequency_penalty", -2, 2) or None,
        presence_penalty=read_number(body, "presence_penalty", -2, 2) or None,
        logit_bias=_logit_bias(body.get("logit_bias")),
        min_tokens=read_integer(body, "min_tokens", 0, LARGEST) or None,
        ignore_eos=bool(read_boolean(body, "ignore_eos")),
    )


def read_form(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer must look like, in the words of OpenAI, vLLM or llama.cpp; at most one of them counts."""
    said = body.get("structured_outputs")
    if said is not None and not isinstance(said, Mapping):
        raise InvalidType("Structured outputs must be an object", field="structured_outputs")
    forms: list[tuple[str, dict[str, Any]]] = []
    for name, value in (said or {}).items():
        if value is not None and value is not False:
            forms.append(_form(name, value, f"structured_outputs.{name[:100]}"))
    named = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}
    for field, name in {**named, "json_schema": "json", "grammar": "grammar"}.items():
        if body.get(field) not in (None, "", {}, []):
            forms.append(_form(name, body[field], field))
    response_format = read_response_format(body.get("response_format"))
    if response_format is not None:
        forms.append(("response_format", {"response_format": response_format}))
    if len(forms) > 1:
        raise InvalidValue(f"An answer has one form: {forms[0][0]} excludes {forms[1][0]}", field=forms[1][0])
    return forms[0][1] if forms else {}


def _form(name: str, value: Any, field: str) -> tuple[str, dict[str, Any]]:
    if name == "json":
        schema = _parsed(value, field) if isinstance(value, str) else value
        if not isinstance(schema, Mapping):
            raise InvalidType(f"{_label(name)} must be a JSON schema", field=field)
        return field, {"response_format": _schema_format(schema)}
    if name == "json_object" and value is True:
        return field, {"response_format": {"type": "json_object"}}
    if name in ("regex", "grammar"):
        if not isinstance(value, str) or not value:
            raise InvalidType(f"{_label(name)} must be a string", field=field)
        return field, {f"answer_{name}": value}
    if name == "choice":
        choices = value if isinstance(value, list) else None
        if not choices or not all(isinstance(choice, str) and choice for choice in choices):
            raise InvalidType("Choice must be an array of strings, none empty", field=field)
        return field, {"answer_choices": tuple(choices)}
    raise InvalidValue(f"The local model cannot honour {field}", field=field)


def _parsed(text: str, field: str) -> Any:
    try:
        return read_json_text(text)
    except ValueError:
        raise InvalidValue(f"{_label(field)} must be JSON", field=field) from None


def _continues(body: Mapping[str, Any], messages: Sequence[Message]) -> bool:
    """Whether the last message is the beginning of the answer."""
    if not read_boolean(body, "continue_final_message"):
        if read_boolean(body, "add_generation_prompt") is False:
            raise InvalidValue("Without a turn of the assistant nothing can be answered", field="add_generation_prompt")
        return False
    if messages[-1].role != "assistant":
        raise InvalidValue("The last message is not the assistant's", field="continue_final_message")
    return True


def _limit(body: Mapping[str, Any], name: str) -> int | None:
    """A limit of the answer; -1 is how some clients say that there is none."""
    return None if body.get(name) == -1 else read_integer(body, name, 1, LARGEST)


def _logit_bias(bias: Any) -> dict[int, float] | None:
    if bias is None or bias in ({}, []):
        return None
    if not isinstance(bias, Mapping):
        raise InvalidType("Logit bias must be an object of tokens and numbers", field="logit_bias")
    if len(bias) > MOST_BIASES:
        details = {"max": MOST_BIASES, "received": len(bias)}
        raise InvalidValue(f"Logit bias must have at most {MOST_BIASES} tokens", field="logit_bias", details=details)
    read: dict[int, float] = {}
    for token, value in bias.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise InvalidValue("Logit bias takes the numbers of tokens", field="logit_bias")
        if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
            details = {"min": -100, "max": 100}
            raise InvalidValue("A logit bias must be between -100 and 100", field="logit_bias", details=details)
        read[int(token)] = value
    return read


def _object(body: Mapping[str, Any], name: str) -> JsonObject:
    value = body.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise InvalidType(f"{_label(name)} must be an object", field=name)
    return value or {}


def _objects(body: Mapping[str, Any], name: str) -> tuple[JsonObject, ...]:
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise InvalidType(f"{_label(name)} must be an array of objects", field=name)
    return tuple(value)


def choice_count(body: Mapping[str, Any]) -> int:
    """How many answers the caller wants."""
    count = read_integer(body, "n", 1, MOST_CHOICES)
    return 1 if count is None else count


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether the stream ends with a chunk of usage."""
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, Mapping):
        raise InvalidType("Stream options must be an object", field="stream_options")
    for name, value in options.items():
        if name != "include_usage" and not asks_for_nothing(value, STREAM_NEUTRAL.get(name, ())):
            field = f"stream_options.{name[:100]}"
            raise InvalidValue(f"The local model cannot honour {field}", field=field)
    wanted = bool(read_boolean(options, "include_usage"))
    if wanted and not body.get("stream"):
        raise InvalidValue("Stream options need stream", field="stream_options")
    return wanted


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted, top = read_boolean(body, "logprobs"), read_integer(body, "top_logprobs", 0, MOST_TOP_LOGPROBS)
    if top is not None and not wanted:
        raise InvalidValue("Top logprobs needs logprobs to be true", field="top_logprobs")
    return top or 0 if wanted else None


def read_boolean(body: Mapping[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidType(f"{_label(name)} must be true or false", field=name)
    return value


def read_number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidType(f"{_label(name)} must be a number", field=name)
    if not least <= value <= most:
        details = {"min": least, "max": most, "received": value}
        raise InvalidValue(f"{_label(name)} must be between {least} and {most}", field=name, details=details)
    return value


def read_integer(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidType(f"{_label(name)} must be an integer", field=name)
    read_number(body, name, least, most)
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
