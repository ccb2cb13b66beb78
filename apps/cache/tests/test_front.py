"""The cache around a ChatModel: who is answered from it, who joins whom, and what is on record of it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from apps.cache.front import CachedModel, CacheFront
from apps.cache.response_cache import ResponseCache
from apps.cache.store import MemoryStore
from apps.core.callers import Budget, Caller
from apps.core.calls import CallRecord, Price, Usage
from apps.core.deltas import Delta, collect
from apps.core.errors import AppError, Forbidden, UpstreamError
from apps.core.messages import CacheControl, ChatRequest, JsonObject, user_message
from apps.core.settings import Settings
from apps.local.checkpoint import Report
from apps.local.loading import Loaded
from apps.local.model import LocalModel
from apps.local.tests.fakes import EchoEngine, EchoTokenizer
from apps.models.metering import Meter, MeteredModel
from apps.models.scripted import ScriptedModel, Step, saying

A = Caller("a", "key-1")
END = Delta(finish_reason="stop", usage=Usage(5, 2, 1, 0.25), model="m")
ANSWER: list[Step] = [Delta("one", model="m"), 0.02, Delta(" two\r\n", model="m"), END]


@dataclass(slots=True)
class Books:
    """A bookkeeper that remembers."""

    opened: list[CallRecord] = field(default_factory=list)
    closed: list[CallRecord] = field(default_factory=list)

    async def opening(self, call: CallRecord) -> None:
        self.opened.append(replace(call))

    def closing(self, call: CallRecord) -> None:
        self.closed.append(call)


@dataclass(slots=True)
class Rig:
    model: ScriptedModel
    books: Books
    cache: ResponseCache
    cached: CachedModel

    async def ask(self, **fields: Any) -> list[Delta]:
        return [delta async for delta in self.cached.stream(request(**fields))]

    async def ask_and_settle(self, **fields: Any) -> list[Delta]:
        """`ask`, and wait until the answer has been kept, where it is."""
        answer = await self.ask(**fields)
        await asyncio.sleep(0.01)
        return answer


def request(text: str = "hi", **fields: Any) -> ChatRequest:
    return ChatRequest(user_message(text), **{"temperature": 0.0, "caller": A, **fields})


def rig(
    script: Sequence[Step] = ANSWER,
    store: MemoryStore | None = None,
    largest: int = 10_000,
    books: Books | None = None,
) -> Rig:
    model, books = ScriptedModel(lambda request: script), books or Books()
    cache = ResponseCache(MemoryStore(1_000_000) if store is None else store, 60, largest=largest)
    return Rig(model, books, cache, cached_model(MeteredModel(model, Meter([books]), "/generate"), cache))


def cached_model(metered: MeteredModel, cache: ResponseCache) -> CachedModel:
    return CachedModel(metered, CacheFront(cache, metered.meter))


async def test_the_second_answer_is_the_first_one_delta_by_delta_and_free() -> None:
    made = rig()
    first = await made.ask()
    await asyncio.sleep(0.01)
    second = await made.ask()
    assert (made.cache.counts.hits, made.cache.counts.joined) == (1, 0)
    assert first == second
    assert len(made.model.requests) == 1
    paid, free = made.books.closed
    assert (paid.cache, paid.cost, paid.saved, paid.outcome) == ("miss", 0.25, 0.0, "ok")
    assert (free.cache, free.cost, free.saved, free.outcome, free.attempts) == ("hit", 0.0, 0.25, "ok", 0)
    assert paid.age is None and free.age == pytest.approx(0, abs=1)
    assert (free.model, free.prompt_tokens, free.completion_tokens, free.cached_tokens) == ("m", 5, 2, 1)
    assert made.books.opened[1].estimated_tokens == 0


@pytest.mark.parametrize(
    ("fields", "cached"),
    [
        ({}, True),
        ({"temperature": 0}, True),
        ({"temperature": 0.7}, False),
        ({"temperature": None}, False),
        ({"temperature": 0.7, "seed": 1}, True),
        ({"temperature": 0.7, "cache": CacheControl(ttl=5)}, True),
        ({"cache": CacheControl(lookup=False, store=False)}, False),
    ],
)
async def test_only_what_is_deterministic_or_asked_for_is_cached(fields: dict[str, Any], cached: bool) -> None:
    made = rig()
    for _ in range(2):
        await made.ask_and_settle(**fields)
    assert len(made.model.requests) == (1 if cached else 2)
    assert [record.cache for record in made.books.closed] == (["miss", "hit"] if cached else ["off", "off"])


@pytest.mark.parametrize(
    "other",
    [
        {"caller": Caller("b", "key-1")},
        {"text": "hi "},
        {"max_tokens": 5},
        {"top_p": 0.5},
        {"model": "other"},
        {"stop": ("x",)},
        {"tools": ({"type": "function"},)},
    ],
)
async def test_any_other_request_is_answered_for_itself(other: dict[str, Any]) -> None:
    made = rig()
    await made.ask()
    await made.ask(**other)
    assert len(made.model.requests) == 2


async def test_no_cache_makes_the_answer_anew_and_keeps_it() -> None:
    made = rig()
    for wishes in (CacheControl(), CacheControl(lookup=False), CacheControl(lookup=False), CacheControl()):
        await made.ask_and_settle(cache=wishes)
    assert len(made.model.requests) == 3
    assert made.cache.counts.kept == 3


@pytest.mark.parametrize(
    "script", [[Delta("half", model="m")], [Delta("half"), UpstreamError("no")], [UpstreamError("no")]]
)
async def test_a_cut_or_failed_answer_is_not_kept(script: list[Step]) -> None:
    made = rig(script)
    for _ in range(2):
        with pytest.raises(UpstreamError):
            await collect(made.cached.stream(request()))
    assert len(made.model.requests) == 2
    assert made.cache.counts.kept == 0


async def test_an_answer_that_is_too_large_is_given_and_not_kept() -> None:
    made = rig([Delta("x" * 20_000), END])
    for _ in range(2):
        assert (await made.ask_and_settle())[0].text == "x" * 20_000
    assert (len(made.model.requests), made.cache.counts.too_large, len_of(made.cache)) == (2, 2, 0)


def len_of(cache: ResponseCache) -> int:
    assert isinstance(cache.store, MemoryStore)
    return len(cache.store)


async def test_fifty_at_the_same_time_are_one_execution_and_each_has_the_whole_answer() -> None:
    made = rig()
    answers = await asyncio.gather(*(made.ask() for _ in range(50)))
    assert len(made.model.requests) == 1
    assert all(answer == answers[0] for answer in answers)
    assert sorted(record.cache for record in made.books.closed) == ["hit"] * 49 + ["miss"]
    assert sum(record.cost or 0 for record in made.books.closed) == 0.25
    assert made.cache.counts.joined == 49


async def test_what_is_saved_where_the_answer_tells_no_cost_is_what_its_execution_was_reckoned_at() -> None:
    end = Delta(finish_reason="stop", usage=Usage(1_000_000, 0), model="m")
    model, books = ScriptedModel(lambda request: [0.01, Delta("x"), end]), Books()
    metered = MeteredModel(model, Meter([books]), "/generate", lambda name: Price(input=3, output=0))
    cached = cached_model(metered, ResponseCache(MemoryStore(100_000), 60))
    await asyncio.gather(*(collect(cached.stream(request())) for _ in range(2)))
    await asyncio.sleep(0.01)
    await collect(cached.stream(request()))
    paid = [(record.cache, record.cost, record.saved) for record in books.closed]
    assert sorted(paid) == [("hit", 0.0, 3.0), ("hit", 0.0, 3.0), ("miss", 3.0, 0.0)]


@pytest.mark.parametrize("other", [Caller("b", "key-1"), replace(A, budget=Budget(1, "day"))])
async def test_neither_tenants_nor_budgets_join(other: Caller) -> None:
    made = rig()
    await asyncio.gather(made.ask(), made.ask(caller=other))
    assert len(made.model.requests) == 2


async def test_a_failure_is_everybodys_with_an_error_of_its_own() -> None:
    made = rig([0.01, UpstreamError("no", upstream_status=200)])
    errors = await asyncio.gather(*(made.ask() for _ in range(5)), return_exceptions=True)
    assert len(made.model.requests) == 1
    assert len({id(error) for error in errors}) == 5
    for error in errors:
        assert isinstance(error, AppError)
        assert (error.code, error.details) == ("UPSTREAM_ERROR", {"upstream_status": 200})
    assert {record.outcome for record in made.books.closed} == {"UPSTREAM_ERROR"}


async def test_when_the_first_leaves_it_goes_on_for_the_others_on_its_record() -> None:
    made = rig()
    first = asyncio.create_task(made.ask())
    await asyncio.sleep(0.005)
    second = asyncio.create_task(made.ask())
    await asyncio.sleep(0.005)
    first.cancel()
    assert await second == [Delta("one", model="m"), Delta(" two\r\n", model="m"), END]
    assert len(made.model.requests) == 1
    assert sorted((record.cache, record.outcome, record.cost) for record in made.books.closed) == [
        ("hit", "ok", 0.0),
        ("miss", "ok", 0.25),
    ]


class Deliberate(Books):
    """Takes its time before a free call may begin; ``refuses`` them in the end."""

    refuses = False

    async def opening(self, call: CallRecord) -> None:
        if call.cache == "hit":
            await asyncio.sleep(0.03)
            if self.refuses:
                raise Forbidden("no")


async def test_who_waits_for_his_record_to_be_opened_does_not_lose_the_answer_to_who_leaves() -> None:
    made = rig([0.01, Delta("one"), 0.05, END], books=Deliberate())
    first = asyncio.create_task(made.ask())
    await asyncio.sleep(0.005)
    second = asyncio.create_task(made.ask())
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second)[-1] == END


async def test_who_is_refused_has_left() -> None:
    books = Deliberate()
    books.refuses = True
    made = rig([Delta("one"), 30.0, END], books=books)
    first = asyncio.create_task(made.ask())
    await asyncio.sleep(0.005)
    with pytest.raises(Forbidden):
        await made.ask()
    first.cancel()
    await asyncio.sleep(0.01)
    assert made.model.open == 0


async def test_when_all_have_left_it_is_cancelled_and_not_kept() -> None:
    made = rig([Delta("one"), 30.0, END])
    tasks = [asyncio.create_task(made.ask()) for _ in range(3)]
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert (made.model.open, len_of(made.cache)) == (0, 0)
    assert [record.outcome for record in made.books.closed] == ["CLIENT_GONE"] * 3


async def test_a_reader_that_stops_early_leaves_as_well() -> None:
    made = rig([Delta("one"), 30.0, END])
    async with aclosing(made.cached.stream(request())) as deltas:
        assert (await anext(deltas)).text == "one"
    await asyncio.sleep(0.01)
    assert made.model.open == 0


async def test_a_long_replay_lets_others_have_their_turns() -> None:
    made = rig([*(Delta("x") for _ in range(2000)), END], largest=1_000_000)
    await made.ask()
    await asyncio.sleep(0.05)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    assert len(await made.ask()) == 2001
    counting.cancel()
    assert turns > 60


async def test_a_damaged_answer_is_a_miss() -> None:
    store = MemoryStore(1_000_000)
    made = rig(store=store)
    await made.ask()
    await asyncio.sleep(0.01)
    (digest,) = store._kept
    kept = await store.get(digest)
    assert kept is not None
    await store.set(digest, kept.replace(b'{"text": "one"', b'["text": "one"'), 60)
    assert (await made.ask())[0].text == "one"
    assert (len(made.model.requests), made.cache.counts.corrupt) == (2, 1)


class Precise(EchoEngine):
    """An engine that says at which precision it computes."""

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.precision = precision

    def describe(self) -> JsonObject:
        return {"engine": "echo", "precision": self.precision}


def loader(precision: str, checkpoint: str) -> Callable[[Settings, Report], Loaded]:
    return lambda settings, report: Loaded("echo", Precise(precision), EchoTokenizer(), {"checkpoint": checkpoint})


async def test_the_local_models_precision_and_checkpoint_are_in_the_question() -> None:
    store, uses = MemoryStore(1_000_000), []
    for precision, checkpoint in (("int4", "a"), ("int4", "a"), ("int8", "a"), ("int8", "b"), ("int8", "a")):
        local = LocalModel(Settings(_env_file=None), loader(precision, checkpoint))
        cached = cached_model(MeteredModel(local, Meter(), "/local/generate"), ResponseCache(store, 60))
        assert cached.revision(request()) is None
        await local.start()
        await local.settled()
        asked = request(max_tokens=5)
        record = cached.new_record(asked)
        await collect(cached.stream(replace(asked, record=record)))
        await asyncio.sleep(0.01)
        uses.append(record.cache)
        await local.aclose()
    assert uses == ["miss", "hit", "miss", "miss", "hit"]


class Unrevised:
    """A ChatModel that cannot tell its revision."""

    def __init__(self, inner: ScriptedModel) -> None:
        self.inner = inner

    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        return self.inner.stream(request)

    def readiness(self) -> Any:
        return self.inner.readiness()

    async def start(self) -> None:
        """Nothing to begin."""

    async def aclose(self) -> None:
        """Nothing to end."""


async def test_a_model_of_unknown_revision_is_never_cached() -> None:
    inner = ScriptedModel(saying("x"))
    cached = cached_model(MeteredModel(Unrevised(inner), Meter(), "/r"), ResponseCache(MemoryStore(100_000), 60))
    for _ in range(2):
        await collect(cached.stream(request()))
    assert len(inner.requests) == 2
