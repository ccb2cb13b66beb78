"""The legacy completions of the local model: prompts go to it as they are, and it writes on.

No chat template is used: a chat model continues the text too, it is just not asked anything. Log probabilities are four
lists side by side: tokens, their values, the likeliest others, and where each token begins.
"""

import codecs
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from apps.core.callers import Caller
from apps.core.calls import CallRecord, Usage
from apps.core.deltas import Answer, Delta, TokenLogprob
from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField, UpstreamError
from apps.core.messages import ChatRequest, user_message
from apps.core.ports import ChatModel
from apps.gateway.openai_api.chat_completions import (
    DONE,
    NO_TOKEN_FIELDS,
    TokenFields,
    fingerprint,
    prompt_json,
    stop_reason,
    token_fields,
    usage_json,
)
from apps.gateway.openai_api.chat_request import (
    FORMS,
    LIMITS,
    MOST_CHOICES,
    MOST_TOP_LOGPROBS,
    OF_TOKENS,
    SAMPLERS,
    choice_count,
    read_boolean,
    read_form,
    read_integer,
    sampled,
    wants_running_usage,
    wants_usage,
)
from apps.gateway.openai_api.choices import Numbered, added, answers, joined, merged, seeded, summed
from apps.gateway.openai_api.fields import NEUTRAL, refuse_others
from apps.gateway.protocol import WireCall, WireReply
from apps.models.event_stream import json_bytes, json_event


class LegacyLogprobs:
    """Of one choice, whole or piece by piece. Offsets are in code points of the choice's text."""

    def __init__(self, fields: TokenFields = NO_TOKEN_FIELDS) -> None:
        self._length = 0
        self._fields = fields

    def serialized(self, text: str, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Of the next piece of ``text``, whose tokens are ``entries``."""
        offsets = _offsets(text, entries, self._length)
        self._length += len(text)
        entries = self._fields.named(entries)
        return {
            "text_offset": offsets,
            "token_logprobs": [entry.logprob for entry in entries],
            "tokens": [_name(entry) for entry in entries],
            "top_logprobs": [_top(entry) for entry in entries],
        }


def mean_logprob(answer: Answer) -> float:
    """Of the tokens of an answer; one without any is worth nothing."""
    known = [entry.logprob for entry in answer.logprobs if entry.logprob is not None]
    return sum(known) / len(known) if known else float("-inf")


def _top(entry: TokenLogprob) -> dict[str, float] | None:
    """The likeliest tokens, and always the one that was chosen."""
    if entry.logprob is None:
        return None
    top = {_name(other): other.logprob for other in entry.top if other.logprob is not None}
    # first the one that was chosen, as vLLM has it
    return {_name(entry): entry.logprob, **top}


def _name(entry: TokenLogprob) -> str:
    """The token's text; its bytes where it is a part of a character only, as OpenAI writes them."""
    try:
        return entry.raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.raw)


def _offsets(text: str, entries: Sequence[TokenLogprob], start: int) -> list[int]:
    """Where each token begins; one that is not in the text (its begin, a control token) takes no place."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets, at = [], 0
    for entry in entries:
        offsets.append(start + at)
        piece = decoder.decode(entry.raw)
        # many tokenizers put a blank before a text that has none
        for spelling in (piece, piece.removeprefix(" ")):
            if text.startswith(spelling, at):
                at += len(spelling)
                break
    return offsets


READ = frozenset({"model", "prompt", "stream", "stream_options", "n", "best_of", "echo", "logprobs"})
READ |= {"response_format", *LIMITS, *SAMPLERS, *FORMS, *OF_TOKENS}
# as of a chat, but for what a bare prompt has by itself
COMPLETION_NEUTRAL: Mapping[str, tuple[Any, ...]] = {**NEUTRAL, "suffix": ("",), "add_special_tokens": (True,)}
# OpenAI's own default
MAX_TOKENS = 16
MOST_PROMPTS = 256
# of one prompt as an array; the model's context is smaller than that
MOST_PROMPT_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class CompletionRequests:
    """A completions body, read: ``requests`` are ``best_of`` for each prompt, of which ``n`` are returned."""

    requests: Sequence[ChatRequest]
    n: int
    best_of: int
    logprobs: bool
    tokens: TokenFields = NO_TOKEN_FIELDS
    prompt_logprobs: bool = False
    running_usage: bool = False


class LocalCompletions:
    """Implements WireTarget for POST /completions over a ChatModel that takes raw prompts."""

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat

    async def open(self, call: WireCall, model: str) -> WireReply:
        completion = completion_requests(call.body, call.caller)
        requests = [replace(request, fits=call.fits) for request in completion.requests]
        completion = replace(completion, requests=joined(requests, call.record))
        with_usage = wants_usage(call.body)
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._chat.readiness().name,
            "system_fingerprint": fingerprint(self._chat),
        }
        if not call.stream:
            return _whole(head, completion, await answers(self._chat, completion.requests), call.record)
        head = {**head, "usage": None} if with_usage else head
        chunks = _Chunks(head, completion, with_usage, call.record)
        blocks = chunks.blocks(merged(self._chat, completion.requests))
        return WireReply("text/event-stream; charset=utf-8", await anext(blocks), blocks)

    async def aclose(self) -> None:
        """The model is closed by its maker."""


def completion_requests(body: Mapping[str, Any], caller: Caller) -> CompletionRequests:
    """Raises an error of the contract's table that names the field."""
    refuse_others(body, READ, COMPLETION_NEUTRAL)
    prompts = read_prompts(body.get("prompt"))
    n = choice_count(body)
    best_of = read_integer(body, "best_of", 1, MOST_CHOICES) or n
    if best_of < n:
        raise InvalidValue("Best of must be at least n", field="best_of", details={"min": n, "received": best_of})
    if best_of > n and body.get("stream"):
        raise InvalidValue("The best of several answers cannot be streamed", field="best_of")
    top = read_integer(body, "logprobs", 0, MOST_TOP_LOGPROBS)
    scored = top is None and best_of > n
    # zero scores a prompt: nothing is answered
    zero = [name for name in LIMITS if body.get(name) == 0 and not isinstance(body[name], bool)]
    request = sampled({name: value for name, value in body.items() if name not in zero})
    request = replace(
        request,
        raw=True,
        echo=bool(read_boolean(body, "echo")),
        max_tokens=0 if zero else MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        top_logprobs=0 if scored else top,
        caller=caller,
        **read_form(body),
    )
    whole = [
        replace(request, messages=user_message(prompt))
        if isinstance(prompt, str)
        else replace(request, prompt_tokens=prompt)
        for prompt in prompts
    ]
    return CompletionRequests(
        [one for request in whole for one in seeded(request, best_of)],
        n,
        best_of,
        top is not None,
        token_fields(body),
        prompt_logprobs=request.prompt_logprobs is not None,
        running_usage=wants_running_usage(body),
    )


def read_prompts(given: Any) -> list[str | tuple[int, ...]]:
    """A text, texts, tokens, or arrays of tokens: each prompt as text or tokens."""
    if given is None:
        raise MissingRequiredField("Prompt is required", field="prompt")
    prompts = [given] if isinstance(given, str) or _is_tokens(given) else given
    if not isinstance(prompts, list):
        raise InvalidType("Prompt must be a string, tokens, or an array of either", field="prompt")
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        details = {"min": 1, "max": MOST_PROMPTS, "received": len(prompts)}
        raise InvalidValue(f"Prompt must be 1 to {MOST_PROMPTS} prompts", field="prompt", details=details)
    alone = prompts is not given
    return [_prompt(prompt, "prompt" if alone else f"prompt.{i}") for i, prompt in enumerate(prompts)]


def _is_tokens(given: Any) -> bool:
    """An array of numbers is one prompt; whether they are tokens shows later."""
    return isinstance(given, list) and bool(given) and isinstance(given[0], int | float)


def _prompt(prompt: Any, field: str) -> str | tuple[int, ...]:
    if not isinstance(prompt, str | list):
        raise InvalidType("A prompt must be a string or an array of tokens", field=field)
    if not prompt:
        raise InvalidValue("Prompt must not be empty", field=field)
    if isinstance(prompt, str):
        return prompt
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in prompt):
        raise InvalidType("The tokens of a prompt must be integers", field=field)
    if len(prompt) > MOST_PROMPT_TOKENS:
        details = {"max": MOST_PROMPT_TOKENS, "received": len(prompt)}
        raise InvalidValue(f"A prompt must have at most {MOST_PROMPT_TOKENS} tokens", field=field, details=details)
    return tuple(prompt)


def _whole(
    head: Mapping[str, Any], completion: CompletionRequests, whole: Sequence[Answer], record: CallRecord | None
) -> WireReply:
    choices: list[dict[str, Any]] = []
    for first in range(0, len(whole), completion.best_of):
        best = list(whole[first : first + completion.best_of])
        if completion.best_of > completion.n:
            # stable: of equals the first is returned
            best.sort(key=mean_logprob, reverse=True)
        for answer in best[: completion.n]:
            logprobs = (
                LegacyLogprobs(completion.tokens).serialized(answer.text, answer.logprobs)
                if completion.logprobs
                else None
            )
            choice = _choice(len(choices), answer.text, answer.finish_reason, logprobs)
            tokens = {"token_ids": answer.tokens if completion.tokens.ids else None, **stop_reason(answer.stopped_by)}
            choices.append(
                choice | tokens | prompt_json(answer.prompt, completion.tokens, logprobs=completion.prompt_logprobs)
            )
    usage = _usage(completion, [answer.usage for answer in whole])
    if record is not None:
        record.usage = usage
    return WireReply("application/json", json_bytes({**head, "choices": choices, "usage": usage_json(usage)}))


def _usage(completion: CompletionRequests, usages: Sequence[Usage | None]) -> Usage | None:
    """A prompt counts once, however many answers it has; each prompt and each answer counts."""
    each = completion.best_of
    return added([summed(usages[first : first + each]) for first in range(0, len(usages), each)])


class _Chunks:
    """One streamed answer: the choices of all prompts side by side."""

    def __init__(
        self, head: Mapping[str, Any], completion: CompletionRequests, with_usage: bool, record: CallRecord | None
    ) -> None:
        self._head = head
        self._completion = completion
        self._with_usage = with_usage
        self._record = record
        self._usages: dict[int, Usage | None] = {}
        self._finished = 0
        self._logprobs = [LegacyLogprobs(completion.tokens) for _ in completion.requests]

    async def blocks(self, deltas: AsyncGenerator[Numbered, None]) -> AsyncGenerator[bytes, None]:
        """The first block comes with the first delta: what fails before it can still have its own status."""
        async with aclosing(deltas):
            async for index, delta in deltas:
                block = self._block(index, delta)
                if block:
                    yield block
        if self._finished < len(self._completion.requests):
            raise UpstreamError("The model's answer was cut off before its end")
        usage = self._usage()
        if self._record is not None:
            self._record.usage = usage
        tail = json_event({**self._head, "choices": [], "usage": usage_json(usage)}) if self._with_usage else b""
        yield tail + DONE

    def _usage(self) -> Usage | None:
        """Of all choices, as of now."""
        return _usage(self._completion, [self._usages.get(index) for index in range(len(self._completion.requests))])

    def _block(self, index: int, delta: Delta) -> bytes:
        block, ids = b"", self._completion.tokens.ids
        if self._completion.running_usage or delta.finish_reason is not None:
            self._usages[index] = delta.usage
        tokens: dict[str, Any] = {"token_ids": list(delta.tokens)} if ids else {}
        if ids and delta.prompt is not None:
            tokens["prompt_token_ids"] = list(delta.prompt.tokens)
        if delta.text or delta.logprobs or (tokens.get("token_ids") and delta.finish_reason is None):
            serialized = (
                self._logprobs[index].serialized(delta.text, delta.logprobs) if self._completion.logprobs else None
            )
            block = self._chunk(_choice(index, delta.text, None, serialized) | tokens)
            tokens = {"token_ids": []} if ids else {}
        if delta.finish_reason is not None:
            self._finished += 1
            block += self._chunk(_choice(index, "", delta.finish_reason, None) | tokens | stop_reason(delta.stopped_by))
        return block

    def _chunk(self, choice: Mapping[str, Any]) -> bytes:
        running = {"usage": usage_json(self._usage())} if self._completion.running_usage else {}
        return json_event({**self._head, **running, "choices": [choice]})


def _choice(index: int, text: str, finish: str | None, logprobs: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}
