"""The local model on OpenAI's wire: a body in, chat completions and their chunks out, in OpenAI's own shapes.

Several answers to one request are made at the same time: each is a stream of its own with a slot of its own. Their
``system_fingerprint`` is the same as long as the same model would answer the same.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from apps.core.calls import CallRecord, Usage
from apps.core.deltas import Answer, Citation, Delta, TokenLogprob, ToolCallDelta, citations_json, collect
from apps.core.errors import NotFound, UpstreamError
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel, digest_of, revision_of
from apps.core.process import VERSION
from apps.gateway.openai_api.chat_request import chat_request, choice_count, wants_usage
from apps.gateway.protocol import WireCall, WireReply

WAITING_DELTAS = 64
# so many at a time: the answers to many prompts must not fill the model's queue
AT_ONCE = 4
Numbered = tuple[int, Delta]


def seeded(request: ChatRequest, count: int) -> list[ChatRequest]:
    """One request a choice. A seed goes up by one a choice, or all choices would be the same."""
    seeds = [None if request.seed is None else request.seed + i for i in range(count)]
    return [replace(request, seed=seed) for seed in seeds]


def joined(requests: Sequence[ChatRequest], record: CallRecord | None) -> list[ChatRequest]:
    """The requests of one call: the first asks to be let in and notes its wait on the record, the others join it."""
    first, *others = requests
    return [replace(first, record=record), *(replace(request, joins=True) for request in others)]


async def answers(chat: ChatModel, requests: Sequence[ChatRequest]) -> list[Answer]:
    """All of them whole. The first error ends the others and is raised."""
    turns = asyncio.Semaphore(AT_ONCE)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_answer(chat, request, turns)) for request in requests]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def merged(chat: ChatModel, requests: Sequence[ChatRequest]) -> AsyncGenerator[Numbered, None]:
    """Deltas with the number of their choice, as they come. The first error ends the others and is raised."""
    queue: asyncio.Queue[Numbered | BaseException | None] = asyncio.Queue(WAITING_DELTAS)
    turns = asyncio.Semaphore(AT_ONCE)

    async def pump(index: int, request: ChatRequest) -> None:
        end: BaseException | None = None
        try:
            async with turns, aclosing(chat.stream(request)) as deltas:
                async for delta in deltas:
                    await queue.put((index, delta))
        except Exception as error:
            end = error
        await queue.put(end)

    tasks = [asyncio.create_task(pump(i, request)) for i, request in enumerate(requests)]
    try:
        ended = 0
        while ended < len(tasks):
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                ended += 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def summed(usages: Sequence[Usage | None]) -> Usage | None:
    """The prompt counts once, as on OpenAI's bill; the answers count each."""
    known = [usage for usage in usages if usage is not None]
    if not known:
        return None
    return replace(
        known[0],
        completion_tokens=sum(usage.completion_tokens for usage in known),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in known),
    )


def added(usages: Sequence[Usage | None]) -> Usage | None:
    """Everything counts each time: these were calls of their own."""
    known = [usage for usage in usages if usage is not None]
    if not known:
        return None
    costs = [usage.cost for usage in known if usage.cost is not None]
    return Usage(
        sum(usage.prompt_tokens for usage in known),
        sum(usage.completion_tokens for usage in known),
        sum(usage.cached_tokens for usage in known),
        sum(costs) if costs else None,
        sum(usage.reasoning_tokens for usage in known),
    )


async def _answer(chat: ChatModel, request: ChatRequest, turns: asyncio.Semaphore) -> Answer:
    async with turns, aclosing(chat.stream(request)) as deltas:
        return await collect(deltas)


NOTHING = ChatRequest(())
SHOWN = 12


def fingerprint(chat: ChatModel) -> str | None:
    """Of the model's revision and this version of the service; None where the model does not tell its revision."""
    revision = revision_of(chat, NOTHING)
    return None if revision is None else f"fp_{digest_of(revision, VERSION)[:SHOWN]}"


DONE = b"data: [DONE]\n\n"


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
        request = replace(chat_request(call.body, call.caller), model=model or None, fits=call.fits)
        # the attempts of those that it asks are not the call's
        requests = joined(seeded(request, choice_count(call.body)), None if self._asks_others else call.record)
        head = _head("chat.completion.chunk" if call.stream else "chat.completion", self._chat.readiness().name)
        if not self._asks_others:
            head["system_fingerprint"] = fingerprint(self._chat)
        logprobs = requests[0].top_logprobs is not None
        if not call.stream:
            return self._whole(head, await answers(self._chat, requests), logprobs, call.record)
        # OpenAI's other chunks say that their usage is still to come
        head = {**head, "usage": None} if with_usage else head
        chunks = _Chunks(head, len(requests), logprobs, with_usage, self._asks_others, call.record)
        blocks = chunks.blocks(merged(self._chat, requests))
        return WireReply("text/event-stream; charset=utf-8", await anext(blocks), blocks)

    async def aclose(self) -> None:
        """The model is closed by its maker."""

    def _whole(
        self, head: dict[str, Any], whole: Sequence[Answer], logprobs: bool, record: CallRecord | None
    ) -> WireReply:
        usages = [answer.usage for answer in whole]
        usage = added(usages) if self._asks_others else summed(usages)
        if self._asks_others:
            head = {**head, "model": whole[0].model or head["model"]}
        if record is not None:
            record.usage = usage
            record.model = head["model"] if self._asks_others else ""
        return WireReply("application/json", _completion(head, whole, logprobs, usage))


class _Chunks:
    """One streamed answer of one or more choices. The deltas say what the record is to hold of it."""

    def __init__(
        self,
        head: Mapping[str, Any],
        choices: int,
        logprobs: bool,
        with_usage: bool,
        asks_others: bool,
        record: CallRecord | None,
    ) -> None:
        self._head = head
        self._choices = choices
        self._logprobs = logprobs
        self._with_usage = with_usage
        self._asks_others = asks_others
        self._record = record
        self._begun: set[int] = set()
        self._usages: dict[int, Usage | None] = {}

    async def blocks(self, deltas: AsyncGenerator[Numbered, None]) -> AsyncGenerator[bytes, None]:
        """The first block comes with the first delta: what fails before it can still have its own status."""
        async with aclosing(deltas):
            async for index, delta in deltas:
                block = self._block(index, delta)
                if block:
                    yield block
        if len(self._usages) < self._choices:
            raise UpstreamError("The model's answer was cut off before its end")
        usages = [*self._usages.values()]
        tail, usage = b"", added(usages) if self._asks_others else summed(usages)
        if self._record is not None:
            self._record.usage = usage
        if self._with_usage:
            tail = _event({**self._head, "choices": [], "usage": usage_json(usage)})
        yield tail + DONE

    def _block(self, index: int, delta: Delta) -> bytes:
        if not (delta.text or delta.reasoning or delta.logprobs or delta.tool_calls or delta.finish_reason):
            return b""
        block = b""
        if self._asks_others:
            if delta.model is not None:
                self._head = {**self._head, "model": delta.model}
            if self._record is not None:
                self._record.model = self._head["model"]
        if index not in self._begun:
            self._begun.add(index)
            role = {"role": "assistant", "content": None if delta.tool_calls else ""}
            block = self._chunk(index, role | _with_citations(delta.citations))
        if delta.reasoning:
            block += self._chunk(index, {"reasoning_content": delta.reasoning})
        if delta.text or delta.logprobs:
            logprobs = logprobs_json(delta.logprobs) if self._logprobs else None
            block += self._chunk(index, {"content": delta.text}, logprobs=logprobs)
        for piece in delta.tool_calls:
            block += self._chunk(index, {"tool_calls": [_piece_json(piece)]})
        if delta.finish_reason is not None:
            self._usages[index] = delta.usage
            # citations came with the first chunk: clients add lists up, and a second one breaks the official one
            block += self._chunk(index, {}, delta.finish_reason)
        return block

    def _chunk(
        self, index: int, delta: dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return _event({**self._head, "choices": [choice]})


def _completion(head: Mapping[str, Any], whole: Sequence[Answer], logprobs: bool, usage: Usage | None) -> bytes:
    choices = [_choice(i, answer, logprobs) for i, answer in enumerate(whole)]
    return json.dumps({**head, "choices": choices, "usage": usage_json(usage)}, ensure_ascii=False).encode()


def _choice(index: int, answer: Answer, logprobs: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
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
        "logprobs": logprobs_json(answer.logprobs) if logprobs else None,
        "finish_reason": answer.finish_reason,
    }


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


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
