"""The cache around a ChatModel: who is answered from it, and what is on record of it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import pytest

from apps.cache.response_cache import ResponseCache
from apps.cache.store import MemoryStore
from apps.cache.tests.cached_models import END, cached_model, len_of, request, rig
from apps.core.callers import Caller
from apps.core.deltas import Delta, collect
from apps.core.errors import UpstreamError
from apps.core.messages import CacheControl, ChatRequest, JsonObject
from apps.core.settings import Settings
from apps.local.checkpoint import Report
from apps.local.loading import Loaded
from apps.local.model import LocalModel
from apps.local.tests.fakes import EchoEngine, EchoTokenizer
from apps.models.metering import Meter, MeteredModel
from apps.models.scripted import ScriptedModel, Step, saying


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
