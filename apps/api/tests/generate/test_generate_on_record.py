"""The records of /generate and /local/generate: who answered, after how many attempts, however the call ended."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from apps.api.src.wiring.gateway import build_cloud, build_gateway
from apps.core.callers import Budget, Caller
from apps.core.calls import CallRecord, Price
from apps.core.deltas import collect
from apps.core.messages import ChatRequest, user_message
from apps.models.metering import Meter, MeteredModel
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.caching import Books, Cached, caching
from apps.tests.support.routing import HEALTHY, TIMEOUTS, name, provider, routing_file
from apps.tests.support.scraping import scrape
from apps.tests.support.serving import serving_models, settings
from apps.tests.support.waiting import HANG_SECONDS, until
from eval.mock_upstream import MockUpstream

both_ways = pytest.mark.parametrize("query", ["", "?stream=true"], ids=["whole", "streamed"])


@pytest.fixture
def plain(mock: MockUpstream) -> Iterator[Cached]:
    """Without a routing file."""
    mock.reset()
    with caching(openai_base_url=mock.base_url) as running:
        yield running


@pytest.fixture
def routed(mock: MockUpstream, tmp_path: Path) -> Iterator[Cached]:
    """With one, whose first provider fails."""
    mock.reset()
    content = {
        "providers": {"first": provider(mock.base_url, prices={"*": {"input": 1, "output": 2}})},
        "models": {
            "both": {
                "targets": [{"provider": "first", "model": "fault-503"}, {"provider": "second", "model": HEALTHY}]
            },
            "none": {"targets": [{"provider": "first", "model": "fault-400"}]},
        },
    }
    content["providers"]["second"] = content["providers"]["first"]
    with caching(gateway_config=routing_file(tmp_path, content), default_model="both") as running:
        yield running


def closed(cached: Cached, number: int = 1) -> CallRecord:
    """The record of the call of this number, which has ended."""
    assert until(lambda: len(cached.books.closed) >= number)
    return cached.books.closed[number - 1]


@both_ways
@pytest.mark.parametrize(("model", "attempts"), [(HEALTHY, 1), ("flaky-2", 3)])
def test_the_upstream_has_answered_after_so_many_attempts(model: str, attempts: int, query: str, plain: Cached) -> None:
    assert plain.ask("/generate" + query, prompt="hi", model=model).status_code == 200
    record = closed(plain)
    assert (record.provider, record.attempts, record.outcome) == ("openai", attempts, "ok")


@both_ways
@pytest.mark.parametrize(("model", "attempts"), [("fault-500", 3), ("fault-400", 1)])
def test_a_call_that_fails_says_how_often_it_was_tried(model: str, attempts: int, query: str, plain: Cached) -> None:
    assert plain.ask("/generate" + query, prompt="hi", model=model).status_code >= 500
    record = closed(plain)
    assert (record.provider, record.attempts) == ("", attempts)
    assert record.outcome != "ok"


def test_a_caller_who_leaves_early_has_had_an_attempt(plain: Cached) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{plain.url}/generate", json={"prompt": "hi", "model": "fault-hang"}, timeout=0.3)
    record = closed(plain)
    assert (record.provider, record.attempts, record.outcome) == ("", 1, "CLIENT_GONE")


async def test_who_leaves_while_he_waits_for_a_place_is_estimated_to_cost_nothing(
    mock: MockUpstream, tmp_path: Path
) -> None:
    patient = {**TIMEOUTS, "first_token": 60, "total": 60}
    content = {
        "providers": {"main": provider(mock.base_url, max_concurrency=1, timeouts=patient)},
        "models": {"m": name("fault-hang")},
    }
    configured, books = settings(gateway_config=routing_file(tmp_path, content)), Books()
    gateway = build_gateway(configured, ScriptedModel(saying("a")), None)
    price = Price(input=1, output=2)
    model = MeteredModel(build_cloud(configured, gateway), Meter([books]), "/generate", lambda _: price)
    spender = Caller("t", "k", budget=Budget(1, "day"))
    request = ChatRequest(user_message("a prompt of 20 char"), model="m", max_tokens=7, caller=spender)
    admission = gateway.router.providers["main"].admission

    async def asking(running: int, waiting: int) -> asyncio.Task[object]:
        task = asyncio.create_task(collect(model.stream(request)))
        async with asyncio.timeout(HANG_SECONDS):
            while (admission.running, admission.waiting) != (running, waiting):  # noqa: ASYNC110 - calls are counted
                await asyncio.sleep(0)
        return task

    made, waits = await asking(1, 0), await asking(1, 1)
    for task in (waits, made):
        task.cancel()
        await asyncio.wait([task])
    await gateway.aclose()
    assert [(one.outcome, one.estimated_cost) for one in books.closed] == [("CLIENT_GONE", 0), ("CLIENT_GONE", 18e-6)]


@both_ways
def test_the_routing_files_provider_that_answered_is_named(query: str, routed: Cached) -> None:
    assert routed.ask("/generate" + query, prompt="hi").status_code == 200
    record = closed(routed)
    assert (record.provider, record.attempts, record.model) == ("second", 2, HEALTHY)
    assert record.queued > 0
    assert record.cost


def test_a_call_that_no_provider_answers_counts_its_attempts(routed: Cached) -> None:
    assert routed.ask("/generate", prompt="hi", model="none").status_code == 502
    record = closed(routed)
    assert (record.provider, record.attempts) == ("", 1)


@both_ways
def test_a_cached_answer_is_its_makers_and_took_no_attempt(query: str, routed: Cached) -> None:
    for _ in range(2):
        routed.ask("/generate" + query, prompt="hi")
    made, hit = closed(routed), closed(routed, 2)
    assert (hit.cache, hit.provider, hit.attempts, hit.queued) == ("hit", "second", 0, 0)
    assert hit.saved == made.cost


@both_ways
def test_the_local_model_is_a_provider_too(query: str, plain: Cached) -> None:
    assert plain.ask("/local/generate" + query, prompt="hi").status_code == 200
    record = closed(plain)
    assert (record.provider, record.attempts, record.outcome) == ("local", 1, "ok")


def test_metrics_know_the_local_model_also_where_the_routing_file_does_not(mock: MockUpstream, tmp_path: Path) -> None:
    file = routing_file(tmp_path, {"providers": {"first": provider(mock.base_url)}, "default_provider": "first"})
    with serving_models(local=ScriptedModel(saying("hi"), name="tiny"), gateway_config=file) as url:
        assert httpx2.post(f"{url}/local/generate", json={"prompt": "hi"}, timeout=90).status_code == 200
        assert until(lambda: scrape(url).sum("genai_calls_total", route="/local/generate", provider="local") == 1)
        assert scrape(url).sum("genai_call_attempts_total", provider="local") == 1
