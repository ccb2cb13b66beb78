"""Several answers to one request, made at the same time: each is a stream of its own with a slot of its own."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from apps.core.calls import CallRecord, Usage
from apps.core.deltas import Answer, Delta, collect
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel

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
    if len(requests) == 1:
        # nothing to wait for at the same time: a task and a queue would cost as much as all else that a delta passes
        async with aclosing(chat.stream(requests[0])) as only:
            async for delta in only:
                yield 0, delta
        return
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
