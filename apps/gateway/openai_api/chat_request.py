"""A chat completions body, read for the local model: what it cannot honour is refused by name, never dropped."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from apps.core.callers import ANONYMOUS, Caller
from apps.core.errors import InvalidType, InvalidValue, quoted
from apps.core.messages import ChatRequest, JsonObject, Message, read_json_text
from apps.gateway.openai_api.chat_messages import (
    read_messages,
    read_response_format,
    read_tool_choice,
    read_tools,
    schema_format,
)
from apps.gateway.openai_api.fields import asks_for_nothing, label, refuse_others

LIMITS = ("max_completion_tokens", "max_tokens", "n_predict", "max_new_tokens")
SAMPLERS = frozenset({"temperature", "top_p", "stop", "seed", "top_k", "min_p", "repetition_penalty", "repeat_penalty"})
SAMPLERS |= {"frequency_penalty", "presence_penalty", "logit_bias", "min_tokens", "ignore_eos"}
READ = frozenset({"model", "messages", "stream", "stream_options", "n", "logprobs", "top_logprobs", *LIMITS, *SAMPLERS})
READ |= {"tools", "tool_choice", "parallel_tool_calls", "response_format"}
READ |= {"continue_final_message", "add_generation_prompt", "documents", "chat_template_kwargs", "include_reasoning"}
FORMS = frozenset(
    {"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "json_schema"}
)
FORMS |= {"grammar"}
# of vLLM's API, about the tokens of prompt and answer: what answers with the help of others has no such tokens
OF_TOKENS = frozenset({"return_token_ids", "return_tokens_as_token_ids", "prompt_logprobs", "truncate_prompt_tokens"})
TOKEN_RULES = frozenset({"stop_token_ids", "allowed_token_ids", "bad_words", "logprob_token_ids"})
OF_TOKENS |= {"truncation_side", "echo", *TOKEN_RULES}
THINKING_BUDGET = "thinking_token_budget"
STREAM_NEUTRAL: Mapping[str, tuple[Any, ...]] = {"include_obfuscation": (False,)}
USAGE_OPTIONS = ("include_usage", "continuous_usage_stats")
MOST_STOPS = 64
MOST_CHOICES = 4
MOST_TOP_LOGPROBS = 20
# as many as there are in a large vocabulary
MOST_ALLOWED = 300_000
MOST_BIASES = 1024
MOST_SCORED = 128
# of what is wrong, in the words of an error
MOST_SHOWN = 10
MOST_BAD_WORDS = 256
LONGEST_BAD_WORD = 200
LARGEST = 2**31 - 1


def chat_request(body: Mapping[str, Any], caller: Caller = ANONYMOUS, *, of_tokens: bool = True) -> ChatRequest:
    """One choice's request. Raises an error of the contract's table that names the field.

    ``of_tokens``: whoever answers knows the tokens of prompt and answer.
    """
    refuse_others(body, READ | FORMS | OF_TOKENS | {THINKING_BUDGET} if of_tokens else READ | FORMS)
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
        generation_prompt=read_boolean(body, "add_generation_prompt") is not False,
        echo=_echoes(body, messages),
        thinking_tokens=None if body.get(THINKING_BUDGET) == -1 else read_integer(body, THINKING_BUDGET, 0, LARGEST),
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
        stop_tokens=_token_ids(body, "stop_token_ids", MOST_STOPS),
        allowed_tokens=_token_ids(body, "allowed_token_ids", MOST_ALLOWED),
        bad_words=_bad_words(body),
        scored_tokens=_scored(body),
        truncate_prompt=_truncation(body),
        truncate_right=_truncates_right(body),
        token_ids=bool(read_boolean(body, "return_token_ids")),
        prompt_logprobs=_prompt_logprobs(body),
        running_usage=wants_running_usage(body),
    )


def _truncation(body: Mapping[str, Any]) -> int | None:
    """The most tokens of the prompt; -1: as many as leave room for the answer."""
    name = "truncate_prompt_tokens"
    return -1 if body.get(name) == -1 else read_integer(body, name, 1, LARGEST)


def _truncates_right(body: Mapping[str, Any]) -> bool:
    side = body.get("truncation_side")
    if side not in (None, "left", "right"):
        raise InvalidValue("Truncation side must be left or right", field="truncation_side")
    return bool(side == "right")


def _prompt_logprobs(body: Mapping[str, Any]) -> int | None:
    top = read_integer(body, "prompt_logprobs", 0, MOST_TOP_LOGPROBS)
    if top is not None and body.get("stream"):
        raise InvalidValue("The log probabilities of a prompt cannot be streamed", field="prompt_logprobs")
    return top


def read_form(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer must look like, in the words of OpenAI, vLLM or llama.cpp; at most one of them counts."""
    constraints = body.get("structured_outputs")
    if constraints is not None and not isinstance(constraints, Mapping):
        raise InvalidType("Structured outputs must be an object", field="structured_outputs")
    forms: list[tuple[str, dict[str, Any]]] = []
    for name, value in (constraints or {}).items():
        if value is not None and value is not False:
            forms.append(_form(name, value, f"structured_outputs.{name[:100]}"))
    named = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}
    for field, name in {**named, "json_schema": "json", "grammar": "grammar"}.items():
        if body.get(field) not in (None, "", {}, []):
            forms.append(_form(name, body[field], field))
    # clients that do not know vLLM's version say the same in its older words and in its newer ones
    forms = [form for at, form in enumerate(forms) if form[1] not in [earlier for _, earlier in forms[:at]]]
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
            raise InvalidType(f"{label(name)} must be a JSON schema", field=field)
        return field, {"response_format": schema_format(schema)}
    if name == "json_object" and value is True:
        return field, {"response_format": {"type": "json_object"}}
    if name in ("regex", "grammar"):
        if not isinstance(value, str) or not value:
            raise InvalidType(f"{label(name)} must be a string", field=field)
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
        raise InvalidValue(f"{label(field)} must be JSON", field=field) from None


def _continues(body: Mapping[str, Any], messages: Sequence[Message]) -> bool:
    """Whether the last message is the beginning of the answer."""
    if not read_boolean(body, "continue_final_message"):
        return False
    if messages[-1].role != "assistant":
        raise InvalidValue("The last message is not the assistant's", field="continue_final_message")
    if body.get("add_generation_prompt") is True:
        raise InvalidValue(
            "A message that is continued begins no new turn: leave add_generation_prompt out",
            field="continue_final_message",
        )
    return True


def _echoes(body: Mapping[str, Any], messages: Sequence[Message]) -> bool:
    """Whether the answer begins with the text of the last message."""
    if not read_boolean(body, "echo"):
        return False
    if messages[-1].role != "assistant":
        raise InvalidValue("Only a last message of the assistant's can be echoed", field="echo")
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
    wrong = [token for token in bias if not (token.isascii() and token.isdigit() and len(token) < 10)]
    if wrong:
        named = ", ".join(map(quoted, wrong[:MOST_SHOWN]))
        raise InvalidValue(f"Logit bias takes the numbers of tokens: {named} is none", field="logit_bias")
    for token, value in bias.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
            details = {"min": -100, "max": 100}
            raise InvalidValue(
                f"A logit bias must be between -100 and 100, and that of {token} is not",
                field="logit_bias",
                details=details,
            )
    return {int(token): value for token, value in bias.items()}


def _token_ids(body: Mapping[str, Any], name: str, most: int) -> tuple[int, ...]:
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
        raise InvalidType(f"{label(name)} must be an array of integers", field=name)
    if len(value) > most:
        details = {"max": most, "received": len(value)}
        raise InvalidValue(f"{label(name)} must be at most {most} tokens", field=name, details=details)
    if not all(0 <= one <= LARGEST for one in value):
        details = {"min": 0, "max": LARGEST}
        raise InvalidValue(f"{label(name)} must be between 0 and {LARGEST}", field=name, details=details)
    return tuple(dict.fromkeys(value))


def _scored(body: Mapping[str, Any]) -> tuple[int, ...]:
    tokens = _token_ids(body, "logprob_token_ids", MOST_SCORED)
    wanted = body.get("logprobs")
    # a text completion has a number there, which may be 0
    if tokens and (wanted is None or wanted is False):
        raise InvalidValue("Logprob token ids need logprobs", field="logprob_token_ids")
    return tokens


def _bad_words(body: Mapping[str, Any]) -> tuple[str, ...]:
    words = body.get("bad_words")
    if words is None:
        return ()
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InvalidType("Bad words must be an array of strings", field="bad_words")
    if len(words) > MOST_BAD_WORDS or not all(word.strip() and len(word) <= LONGEST_BAD_WORD for word in words):
        raise InvalidValue(
            f"Bad words must be at most {MOST_BAD_WORDS} texts of at most {LONGEST_BAD_WORD} characters, none empty",
            field="bad_words",
        )
    return tuple(dict.fromkeys(words))


def _object(body: Mapping[str, Any], name: str) -> JsonObject:
    value = body.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise InvalidType(f"{label(name)} must be an object", field=name)
    return value or {}


def _objects(body: Mapping[str, Any], name: str) -> tuple[JsonObject, ...]:
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise InvalidType(f"{label(name)} must be an array of objects", field=name)
    return tuple(value)


def choice_count(body: Mapping[str, Any]) -> int:
    """How many answers the caller wants."""
    count = read_integer(body, "n", 1, MOST_CHOICES)
    return 1 if count is None else count


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether the stream ends with a chunk of usage."""
    options = _stream_options(body)
    for name, value in options.items():
        if name not in USAGE_OPTIONS and not asks_for_nothing(value, STREAM_NEUTRAL.get(name, ())):
            field = f"stream_options.{name[:100]}"
            raise InvalidValue(f"The local model cannot honour {field}", field=field)
    wanted, running = (bool(read_boolean(options, name)) for name in USAGE_OPTIONS)
    if (wanted or running) and not body.get("stream"):
        raise InvalidValue("Stream options need stream", field="stream_options")
    return wanted


def wants_running_usage(body: Mapping[str, Any]) -> bool:
    """Whether each chunk has the usage so far; as in vLLM, only where usage is asked for at all."""
    options = _stream_options(body)
    return options.get("include_usage") is True and options.get("continuous_usage_stats") is True


def _stream_options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    options = body.get("stream_options")
    if options is not None and not isinstance(options, Mapping):
        raise InvalidType("Stream options must be an object", field="stream_options")
    return options or {}


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted, top = read_boolean(body, "logprobs"), read_integer(body, "top_logprobs", 0, MOST_TOP_LOGPROBS)
    if top is not None and not wanted:
        raise InvalidValue("Top logprobs needs logprobs to be true", field="top_logprobs")
    return top or 0 if wanted else None


def read_boolean(body: Mapping[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidType(f"{label(name)} must be true or false", field=name)
    return value


def read_number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidType(f"{label(name)} must be a number", field=name)
    if not least <= value <= most:
        details = {"min": least, "max": most, "received": value}
        raise InvalidValue(f"{label(name)} must be between {least} and {most}", field=name, details=details)
    return value


def read_integer(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidType(f"{label(name)} must be an integer", field=name)
    read_number(body, name, least, most)
    return value


def _stop(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise InvalidType("Stop must be a string or an array of strings", field="stop")
    if len(stops) > MOST_STOPS or not all(stops):
        raise InvalidValue(f"Stop must be at most {MOST_STOPS} strings, none empty", field="stop")
    return tuple(stops)
