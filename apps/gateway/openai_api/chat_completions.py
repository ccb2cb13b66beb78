"""The local model on OpenAI's wire: a body in, chat completions and their chunks out, in OpenAI's own shapes.

``system_fingerprint`` is the same as long as the same model would answer the same.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from json.encoder import encode_basestring
from typing import Any

from apps.core.calls import CallRecord, Usage
from apps.core.deltas import Answer, Citation, Delta, PromptTokens, TokenLogprob, ToolCallDelta, citations_json
from apps.core.errors import NotFound, UpstreamError
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel, digest_of, revision_of
from apps.core.process import VERSION
from apps.gateway.openai_api.chat_request import (
    chat_request,
    choice_count,
    read_boolean,
    wants_running_usage,
    wants_usage,
)
from apps.gateway.openai_api.choices import Numbered, added, answers, joined, merged, seeded, summed
from apps.gateway.protocol import WireCall, WireReply
from apps.models.event_stream import json_bytes, json_event

NOTHING = ChatRequest(())
SHOWN = 12


def fingerprint(chat: ChatModel) -> str | None:
    """Of the model's revision and this version of the service; None where the model does not tell its revision."""
    revision = revision_of(chat, NOTHING)
    return None if revision is None else f"fp_{digest_of(revision, VERSION)[:SHOWN]}"


DONE = b"data: [DONE]\n\n"
EMPTY_DELTA, CONTENT = b'{"content": ""}', b'{"content": '
NO_FIELDS: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class TokenFields:
    """``ids``: chunks and choices have the tokens' numbers; ``names_are_ids``: those stand for the tokens' texts."""

    ids: bool = False
    names_are_ids: bool = False

    def named(self, entries: Sequence[TokenLogprob]) -> Sequence[TokenLogprob]:
        """The entries as they are written."""
        return [_by_number(entry) for entry in entries] if self.names_are_ids else entries


NO_TOKEN_FIELDS = TokenFields()


def token_fields(body: Mapping[str, Any]) -> TokenFields:
    """Raises InvalidType."""
    flags = (bool(read_boolean(body, name)) for name in ("return_token_ids", "return_tokens_as_token_ids"))
    return TokenFields(*flags)


def prompt_json(prompt: PromptTokens | None, fields: TokenFields, *, logprobs: bool) -> dict[str, Any]:
    """The two fields of a prompt in a whole answer, null where they are not asked for."""
    known = prompt is not None and logprobs
    return {
        "prompt_logprobs": [_prompt_entry(entry) for entry in prompt.logprobs] if known and prompt else None,
        "prompt_token_ids": list(prompt.tokens) if fields.ids and prompt else None,
    }


def _prompt_entry(entry: TokenLogprob) -> dict[str, Any] | None:
    """The likeliest tokens by their numbers, and always the one that stands there; None of the first token."""
    if entry.logprob is None:
        return None
    ranked = [replace(other, rank=rank) for rank, other in enumerate(entry.top, 1)]
    return {
        str(one.id): {"logprob": one.logprob, "rank": one.rank, "decoded_token": one.token} for one in [*ranked, entry]
    }


def _by_number(entry: TokenLogprob) -> TokenLogprob:
    name = f"token_id:{entry.id}"
    return replace(entry, token=name, raw=name.encode(), top=tuple(map(_by_number, entry.top)))


class LocalWire:
    """Puts a ChatModel behind POST /chat/completions.

    ``asks_others``: it has others answer, so who that was is known from its deltas only.
    """

    def __init__(self, chat: ChatModel, *, asks_others: bool = False) -> None:
        self._chat = chat
        self._asks_others = asks_others

    async def open(self, call: WireCall, model: str) -> WireReply:
        if call.path != "/chat/completions":
            raise NotFound(f"The local model does not serve {call.path}")
        with_usage = wants_usage(call.body)
        read = chat_request(call.body, call.caller, of_tokens=not self._asks_others)
        request = replace(read, model=model or None, fits=call.fits)
        details = AnswerDetails(
            request.top_logprobs is not None,
            None if self._asks_others else token_fields(call.body),
            prompt_logprobs=request.prompt_logprobs is not None,
            reasoning=read_boolean(call.body, "include_reasoning") is not False,
        )
        # the attempts of those that it asks are not the call's
        requests = joined(seeded(request, choice_count(call.body)), None if self._asks_others else call.record)
        # the prompt is the same for all choices
        requests = [requests[0], *(replace(other, prompt_logprobs=None) for other in requests[1:])]
        head = _head("chat.completion.chunk" if call.stream else "chat.completion", self._chat.readiness().name)
        if not self._asks_others:
            head["system_fingerprint"] = fingerprint(self._chat)
        if not call.stream:
            return self._whole(head, await answers(self._chat, requests), details, call.record)
        # OpenAI's other chunks say that their usage is still to come
        head = {**head, "usage": None} if with_usage else head
        details = replace(details, usage=with_usage, running=wants_running_usage(call.body))
        chunks = _Chunks(head, len(requests), details, self._asks_others, call.record)
        blocks = chunks.blocks(merged(self._chat, requests))
        return WireReply("text/event-stream; charset=utf-8", await anext(blocks), blocks)

    async def aclose(self) -> None:
        """The model is closed by its maker."""

    def _whole(
        self, head: dict[str, Any], whole: Sequence[Answer], details: "AnswerDetails", record: CallRecord | None
    ) -> WireReply:
        usages = [answer.usage for answer in whole]
        usage = added(usages) if self._asks_others else summed(usages)
        if self._asks_others:
            head = {**head, "model": whole[0].model or head["model"]}
        if record is not None:
            record.usage = usage
            record.model = head["model"] if self._asks_others else ""
        if details.tokens is not None:
            head = {**head, **prompt_json(whole[0].prompt, details.tokens, logprobs=details.prompt_logprobs)}
        return WireReply("application/json", _completion(head, whole, details, usage))


@dataclass(frozen=True, slots=True)
class AnswerDetails:
    """What an answer tells besides what it says. ``tokens`` is None where whoever answers knows no tokens.

    ``reasoning``: what the model thought before it. ``running``: each chunk of a stream has the usage so far.
    """

    logprobs: bool = False
    tokens: TokenFields | None = None
    prompt_logprobs: bool = False
    reasoning: bool = True
    usage: bool = False
    running: bool = False

    def logprobs_of(self, entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """A choice's object, or null."""
        if not self.logprobs:
            return None
        return logprobs_json(entries if self.tokens is None else self.tokens.named(entries))


class _Chunks:
    """One streamed answer of one or more choices. The deltas say what the record is to hold of it."""

    def __init__(
        self,
        head: Mapping[str, Any],
        choices: int,
        details: AnswerDetails,
        asks_others: bool,
        record: CallRecord | None,
    ) -> None:
        self._head = head
        self._choices = choices
        self._details = details
        self._asks_others = asks_others
        self._record = record
        self._begun: set[int] = set()
        self._finished = 0
        self._usages: dict[int, Usage | None] = {}
        # what stands around the text of a choice's chunk, as long as the head is the same
        self._around: dict[int, tuple[bytes, bytes]] = {}

    async def blocks(self, deltas: AsyncGenerator[Numbered, None]) -> AsyncGenerator[bytes, None]:
        """The first block comes with the first delta: what fails before it can still have its own status."""
        async with aclosing(deltas):
            async for index, delta in deltas:
                block = self._block(index, delta)
                if block:
                    yield block
        if self._finished < self._choices:
            raise UpstreamError("The model's answer was cut off before its end")
        tail, usage = b"", self._usage()
        if self._record is not None:
            self._record.usage = usage
        if self._details.usage:
            tail = json_event({**self._head, "choices": [], "usage": usage_json(usage)})
        yield tail + DONE

    def _usage(self) -> Usage | None:
        """Of all choices, as of now."""
        usages = [*self._usages.values()]
        return added(usages) if self._asks_others else summed(usages)

    def _block(self, index: int, delta: Delta) -> bytes:
        more = delta.reasoning or delta.logprobs or delta.tool_calls or delta.finish_reason
        plain = not (more or delta.tokens or self._details.running or self._details.logprobs)
        if plain and delta.text and index in self._begun:
            # nearly every delta: what does not change from token to token is written once
            self._note_model(delta)
            return self._text_chunk(index, delta.text)
        says = delta.text or more
        if not (says or delta.tokens or delta.prompt):
            return b""
        block = b""
        if self._details.running and index not in self._begun and delta.usage is not None:
            self._usages[index] = replace(delta.usage, completion_tokens=0, reasoning_tokens=0)
        self._note_model(delta)
        if index not in self._begun:
            self._begun.add(index)
            role = {"role": "assistant", "content": None if delta.tool_calls else ""}
            prompt = {"prompt_token_ids": list(delta.prompt.tokens)} if delta.prompt else NO_FIELDS
            block = self._chunk(index, role | _with_citations(delta.citations), more=prompt)
        if self._details.running or delta.finish_reason is not None:
            self._usages[index] = delta.usage
        if delta.reasoning and self._details.reasoning:
            block += self._chunk(index, {"reasoning_content": delta.reasoning})
        tokens = {"token_ids": list(delta.tokens)} if delta.tokens else {}
        if delta.text or delta.logprobs or (tokens and not delta.tool_calls and not delta.finish_reason):
            logprobs = self._details.logprobs_of(delta.logprobs)
            block += self._chunk(index, {"content": delta.text}, logprobs=logprobs, of_choice=tokens)
            tokens = {}
        for piece in delta.tool_calls:
            block += self._chunk(index, {"tool_calls": [_piece_json(piece)]}, of_choice=tokens)
            tokens = {}
        if delta.finish_reason is not None:
            self._finished += 1
            # citations came with the first chunk: clients add lists up, and a second one breaks the official one
            block += self._chunk(index, {}, delta.finish_reason, of_choice=tokens | stop_reason(delta.stopped_by))
        return block

    def _note_model(self, delta: Delta) -> None:
        """Who answers, where that is known from the deltas only."""
        if not self._asks_others:
            return
        if delta.model is not None and delta.model != self._head["model"]:
            self._head = {**self._head, "model": delta.model}
            self._around.clear()
        if self._record is not None:
            self._record.model = self._head["model"]

    def _text_chunk(self, index: int, text: str) -> bytes:
        """`_chunk` of a text and nothing else."""
        around = self._around.get(index)
        if around is None:
            # quotes within a string are escaped: this is the object of the delta and nothing else
            before, _, after = self._chunk(index, {"content": ""}).rpartition(EMPTY_DELTA)
            around = self._around[index] = before + CONTENT, b"}" + after
        return around[0] + encode_basestring(text).encode() + around[1]

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        finish: str | None = None,
        logprobs: dict[str, Any] | None = None,
        *,
        of_choice: Mapping[str, Any] = NO_FIELDS,
        more: Mapping[str, Any] = NO_FIELDS,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish, **of_choice}
        running = {"usage": usage_json(self._usage())} if self._details.running else NO_FIELDS
        return json_event({**self._head, **more, **running, "choices": [choice]})


def _completion(head: Mapping[str, Any], whole: Sequence[Answer], details: AnswerDetails, usage: Usage | None) -> bytes:
    choices = [_choice(i, answer, details) for i, answer in enumerate(whole)]
    return json_bytes({**head, "choices": choices, "usage": usage_json(usage)})


def _choice(index: int, answer: Answer, details: AnswerDetails) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning and details.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
    message |= _with_citations(answer.citations)
    return {
        "index": index,
        "message": message,
        "logprobs": details.logprobs_of(answer.logprobs),
        "finish_reason": answer.finish_reason,
        **stop_reason(answer.stopped_by),
        **(NO_FIELDS if details.tokens is None else {"token_ids": answer.tokens if details.tokens.ids else None}),
    }


def stop_reason(stopped_by: str | int | None) -> dict[str, Any]:
    """Of a choice that a stop string or a stop token ended, as vLLM has it."""
    return {} if stopped_by is None else {"stop_reason": stopped_by}


def _with_citations(citations: Sequence[Citation] | None) -> dict[str, Any]:
    """Of an answer from documents: beside OpenAI's own fields, where its clients leave what they do not know alone."""
    return {} if citations is None else {"citations": citations_json(citations)}


def usage_json(usage: Usage | None) -> dict[str, Any] | None:
    """OpenAI's usage object."""
    if usage is None:
        return None
    thought = {"completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens}}
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        **(thought if usage.reasoning_tokens else {}),
    }


def logprobs_json(entries: Sequence[TokenLogprob]) -> dict[str, Any]:
    """OpenAI's logprobs object of a choice."""
    content = [{**_token(entry), "top_logprobs": [_token(other) for other in entry.top]} for entry in entries]
    return {"content": content, "refusal": None}


def _token(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.raw)}


def _piece_json(piece: ToolCallDelta) -> dict[str, Any]:
    if piece.name is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}
