"""A conversation: messages, the tool calls in them, and the request that carries both.

The JSON of tool calls is read as RFC 8259 has it, and no more: what is read here can be written again, and means the
same to every reader.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from apps.core.callers import ANONYMOUS, Caller
from apps.core.calls import CallRecord

Role = Literal["system", "developer", "user", "assistant", "tool"]
JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asked for; ``arguments`` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``content`` is text, or content parts in the shape of OpenAI's chat API.

    ``name`` is the participant's, ``reasoning`` what the assistant thought before its answer; both for models whose
    chat template has a place for them.
    """

    role: Role
    content: str | Sequence[JsonObject]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class CacheControl:
    """What a caller asks of the response cache.

    ``lookup`` False: the answer must be made anew; ``store`` False: nor may it be stored. ``ttl`` seconds: an answer
    that could turn out differently is cached too, and none that is older is used.
    """

    lookup: bool = True
    store: bool = True
    ttl: int | None = None


DEFAULT_CACHE_CONTROL = CacheControl()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a caller asks of a chat model; every limit has been checked before it is made.

    ``temperature`` 0 means greedy. ``model`` None means the model's own default.
    ``tools`` are function schemas in the shape of OpenAI's chat API. ``top_p``, ``temperature`` and
    ``max_tokens`` left at None are not sent: the model's own default counts. So are the last three:
    ``response_format`` in the shape of OpenAI's chat API; ``top_logprobs`` None asks for no log probabilities, a
    number for each token's and that many alternatives. ``caller``, ``cache`` and ``record`` are never sent anywhere:
    they are the tenant whose stores may be read, how the response cache is used, and the record of the call where it
    has one, which the parts on its way fill in.

    Samplers, each None where the caller left it open: ``top_k`` (0 or None: all tokens), ``min_p``,
    ``repetition_penalty`` (of prompt and answer), ``frequency_penalty`` and ``presence_penalty`` (of the answer),
    ``logit_bias`` by token, ``min_tokens`` before the answer may end, ``ignore_eos`` (only ``max_tokens`` ends it),
    ``stop_tokens`` that end it, ``allowed_tokens`` beside which no other comes, ``bad_words`` that are not written.

    ``thinking_tokens`` is the most tokens of what the model thinks before its answer.

    The answer's form, at most one of them beside ``response_format``: ``answer_regex``, ``answer_choices``,
    ``answer_grammar`` (in the syntax of Lark).

    The prompt's form: ``continue_final_message`` leaves the last turn open, and the answer goes on from there.
    Without ``generation_prompt`` the turn of the assistant does not begin: the model itself begins one or not.
    ``documents`` and ``template_arguments`` go to the chat template. ``raw`` is a prompt without a template: the
    messages' text, or ``prompt_tokens``. ``truncate_prompt`` is the most tokens of a prompt, of which the end stays, or
    the beginning with ``truncate_right``; -1 stands for what leaves room for the answer.

    What is told besides the answer's text: with ``echo`` a raw prompt's text comes before it, with its log
    probabilities where those are asked for, and of a chat the text of the last message. ``token_ids`` tells the tokens
    of prompt and answer, ``scored_tokens`` those whose log probabilities stand beside each token's in place of the
    likeliest ones', ``prompt_logprobs`` the log probabilities of the prompt's tokens with that many alternatives,
    ``running_usage`` the usage so far with each delta.
    """

    messages: tuple[Message, ...]
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[JsonObject, ...] = ()
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    response_format: JsonObject | None = None
    top_logprobs: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    min_tokens: int | None = None
    ignore_eos: bool = False
    stop_tokens: tuple[int, ...] = ()
    allowed_tokens: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    scored_tokens: tuple[int, ...] = ()
    thinking_tokens: int | None = None
    answer_regex: str | None = None
    answer_choices: tuple[str, ...] = ()
    answer_grammar: str | None = None
    continue_final_message: bool = False
    documents: tuple[JsonObject, ...] = ()
    template_arguments: JsonObject | None = None
    prompt_tokens: tuple[int, ...] | None = None
    echo: bool = False
    generation_prompt: bool = True
    truncate_prompt: int | None = None
    truncate_right: bool = False
    token_ids: bool = False
    prompt_logprobs: int | None = None
    running_usage: bool = False
    # max_tokens gives way where the context has not so much room, and where it is None all the room is the answer's
    fits: bool = False
    # the messages' text goes to the model as it is, without a chat template; only the local model can do that
    raw: bool = False
    # whether the caller gets a stream; the model does not read it
    streamed: bool = False
    caller: Caller = ANONYMOUS
    cache: CacheControl = DEFAULT_CACHE_CONTROL
    record: CallRecord | None = field(default=None, compare=False, repr=False)
    # another answer to a call of which one is under way: a full queue does not refuse it
    joins: bool = False


def user_message(text: str) -> tuple[Message, ...]:
    """The conversation that holds one prompt and nothing else."""
    return (Message("user", text),)


def read_json_text(text: str) -> Any:
    """Raises ValueError, also for NaN, a number out of a float's range, a lone surrogate, and nesting too deep to walk.

    Python's own reader takes all of these, and its writer then fails, or writes what is no JSON.
    """
    try:
        value = _decode(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(written: str) -> float:
    value = float(written)
    if not isfinite(value):
        raise ValueError("a number is too large")
    return value


_decode = json.JSONDecoder(parse_constant=_constant, parse_float=_finite).decode
