"""The response cache on /v1, over real sockets with a mock upstream: what is answered from it, and what never is."""

import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.tests.support.caching import CHAT, ZERO, Cached, caching, requests, without_receipt
from apps.tests.support.reading import receipt_in
from apps.tests.support.routing import ASK, HEALTHY, name, provider, routing_file
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

SEARCHING: dict[str, Any] = {"temperature": 0, "tools": [{"type": "web_search"}]}
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@both_ways
def test_the_second_answer_is_the_first_one_byte_by_byte_but_for_its_receipt(
    stream: bool, cached: Cached, mock: MockUpstream
) -> None:
    more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    first = cached.ask(**more)
    time.sleep(1.1)
    second = cached.ask(**more)
    assert requests(mock) == 1
    assert [first.headers["X-Cache"], second.headers["X-Cache"]] == ["miss", "hit"]
    assert "Age" not in first.headers
    assert int(second.headers["Age"]) >= 1
    assert second.headers["X-Attempts"] == "0"
    assert second.headers["X-Cost-USD"] == "0.00000000"
    same = ("Content-Type", "X-Model", "X-Provider")
    assert [first.headers[header] for header in same] == [second.headers[header] for header in same]
    if stream:
        assert without_receipt(first.content) == without_receipt(second.content)
        receipt = receipt_in(second.content)
        assert (receipt["cache"], receipt["attempts"], receipt["cost"], receipt["tried"]) == ("hit", 0, 0.0, [])
        assert receipt["prompt_tokens"] == receipt_in(first.content)["prompt_tokens"]
    else:
        assert first.content == second.content
        assert first.headers["X-Prompt-Tokens"] == second.headers["X-Prompt-Tokens"]
    assert until(lambda: cached.uses() == ["miss", "hit"])
    paid, free = cached.books.closed
    assert (free.cost, free.outcome, free.attempts, free.estimated_tokens) == (0.0, "ok", 0, 0)
    assert (free.model, free.provider) == (paid.model, paid.provider)
    assert (free.prompt_tokens, free.completion_tokens) == (paid.prompt_tokens, paid.completion_tokens)


def test_what_the_answer_had_cost_is_saved(mock: MockUpstream, tmp_path: Path) -> None:
    mock.reset()
    content = {
        "providers": {"main": provider(mock.base_url, prices={HEALTHY: {"input": 10, "output": 20}})},
        "models": {HEALTHY: name(HEALTHY)},
    }
    with caching(gateway_config=routing_file(tmp_path, content)) as cached:
        paid, free = cached.ask(), cached.ask()
        assert float(paid.headers["X-Cost-USD"]) > 0 == float(free.headers["X-Cost-USD"])
        assert until(lambda: cached.uses() == ["miss", "hit"])
        assert cached.books.closed[1].saved == cached.books.closed[0].cost
        assert cached.books.closed[0].saved == 0


@pytest.mark.parametrize(
    ("path", "body", "hit"),
    [
        ("/v1/embeddings", {"model": HEALTHY, "input": "x"}, True),
        ("/v1/completions", {"model": HEALTHY, "prompt": "x", "temperature": 0}, True),
        ("/v1/completions", {"model": HEALTHY, "prompt": "x"}, False),
        ("/v1/responses", {"model": HEALTHY, "input": "x", "temperature": 0, "store": False}, True),
        # a response that may be kept has an id of its own
        ("/v1/responses", {"model": HEALTHY, "input": "x", "temperature": 0}, False),
        ("/v1/responses", {"model": HEALTHY, "input": "x", "temperature": 0, "store": True}, False),
        ("/v1/responses", {"model": HEALTHY, "input": "x", **SEARCHING, "store": False}, False),
        (CHAT, {"model": HEALTHY, **ASK}, False),
        (CHAT, {"model": HEALTHY, **ASK, "temperature": 0.5}, False),
        (CHAT, {"model": HEALTHY, **ASK, "temperature": 0.5, "seed": 7}, True),
        (CHAT, {"model": HEALTHY, **ZERO, "n": 2}, False),
        (CHAT, {"model": "local", **ASK}, True),
    ],
)
def test_only_deterministic_calls_are_cached(path: str, body: dict[str, Any], hit: bool, cached: Cached) -> None:
    answers = [httpx2.post(cached.url + path, json=body, timeout=90) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.headers["X-Cache"] for answer in answers] == ["miss", "hit" if hit else "miss"]
    assert until(lambda: cached.uses() == (["miss", "hit"] if hit else ["off", "off"]))


def test_a_response_streams_from_the_cache_too(cached: Cached, mock: MockUpstream) -> None:
    body = {"model": HEALTHY, "input": "x", "temperature": 0, "stream": True, "store": False}
    first, second = (httpx2.post(f"{cached.url}/v1/responses", json=body, timeout=90) for _ in range(2))
    assert (second.headers["X-Cache"], requests(mock)) == ("hit", 1)
    assert without_receipt(first.content) == without_receipt(second.content)


def test_other_spellings_of_a_body_are_the_same_question(cached: Cached, mock: MockUpstream) -> None:
    spellings = [
        b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"\\u00fc"}],"temperature":0,"max_tokens":5}',
        b'{"max_tokens":5,\n"temperature":0.0,"messages":[{"content":"\xc3\xbc","role":"user"}],"model":"gpt-4o-mini"}',
        b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"\xc3\xbc"}],"temperature":-0e1,'
        b'"max_tokens":5.0,"stream":false}',
    ]
    headers = {"Content-Type": "application/json"}
    uses = [
        httpx2.post(cached.url + CHAT, content=body, headers=headers, timeout=90).headers["X-Cache"]
        for body in spellings
    ]
    assert (uses, requests(mock)) == (["miss", "hit", "hit"], 1)


@pytest.mark.parametrize(
    "more", [{"future": 1}, {"max_tokens": 6}, {"stream": True}, {"user": "u"}, {"model": "other"}]
)
def test_an_unknown_field_or_another_value_is_another_question(more: dict[str, Any], cached: Cached) -> None:
    cached.ask()
    assert cached.ask(**more).headers["X-Cache"] == "miss"


def test_tenants_do_not_share(cached: Cached, mock: MockUpstream) -> None:
    uses = [cached.ask(headers={"X-Tenant": tenant}).headers["X-Cache"] for tenant in ("a", "b", "a", "b", "A")]
    assert (uses, requests(mock)) == (["miss", "miss", "hit", "hit", "miss"], 3)


def test_no_cache_and_no_store(cached: Cached, mock: MockUpstream) -> None:
    def ask(control: str) -> str:
        return cached.ask(headers={"Cache-Control": control} if control else {}).headers["X-Cache"]

    assert [ask("no-store"), ask("")] == ["miss", "miss"]
    assert [ask("no-cache"), ask("")] == ["miss", "hit"]
    assert [ask("No-Store, max-age=0"), ask("")] == ["miss", "hit"]
    assert requests(mock) == 4
    assert until(lambda: cached.uses() == ["off", "miss", "miss", "hit", "off", "hit"])


def test_a_caller_may_ask_for_what_is_not_deterministic_for_so_many_seconds(cached: Cached, mock: MockUpstream) -> None:
    def ask(seconds: str) -> httpx2.Response:
        return cached.ask(temperature=0.9, headers={"X-Cache-TTL": seconds})

    assert [ask("60").headers["X-Cache"], ask("60").headers["X-Cache"]] == ["miss", "hit"]
    time.sleep(1.1)
    assert ask("1").headers["X-Cache"] == "miss"
    assert cached.ask(temperature=0.9).headers["X-Cache"] == "miss"
    for wrong in ("0", "-1", "1.5", "x", "604801", "9" * 30, ""):
        refused = ask(wrong)
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, "X-Cache-TTL"), wrong


def test_an_answer_is_given_for_its_time_only(mock: MockUpstream) -> None:
    with caching(openai_base_url=mock.base_url, cache_ttl=1) as cached:
        assert [cached.ask().headers["X-Cache"] for _ in range(2)] == ["miss", "hit"]
        time.sleep(1.1)
        assert cached.ask().headers["X-Cache"] == "miss"


@both_ways
@pytest.mark.parametrize(
    "model", ["fault-400", "fault-500", "fault-cut", "fault-badjson", "fault-error", "fault-200error", "fault-stall"]
)
@pytest.mark.long
def test_a_failed_or_cut_answer_is_never_kept(model: str, stream: bool, cached: Cached, mock: MockUpstream) -> None:
    cached.ask(model=model, stream=stream)
    calls = requests(mock)
    again = cached.ask(model=model, stream=stream)
    assert requests(mock) > calls
    assert b"error" in again.content
    assert again.headers.get("X-Cache") != "hit"
    assert cached.cache.counts.kept == 0


def test_an_idempotency_key_goes_past_the_cache(cached: Cached, mock: MockUpstream) -> None:
    cached.ask()
    uses = [cached.ask(headers={"Idempotency-Key": "k"}).headers["X-Cache"] for _ in range(2)]
    assert (uses, requests(mock)) == (["miss", "replay"], 2)


def test_a_changed_routing_file_is_another_revision_and_an_unchanged_name_is_not(
    mock: MockUpstream, tmp_path: Path
) -> None:
    from apps.api.src.wiring.gateway import build_gateway
    from apps.tests.support.serving import settings

    def content(target: str) -> dict[str, Any]:
        return {
            "providers": {"main": provider(mock.base_url)},
            "models": {"chat": name(target), "fixed": name(HEALTHY), "behind": name(HEALTHY, fallbacks=["chat"])},
        }

    file = routing_file(tmp_path, content("one"))
    router = build_gateway(settings(gateway_config=file), _nobody()).router
    routing_file(tmp_path, content("two"))
    changed = build_gateway(settings(gateway_config=file), _nobody()).router
    assert router.revision("chat") != changed.revision("chat")
    assert router.revision("behind") != changed.revision("behind")
    assert router.revision("fixed") == changed.revision("fixed")
    assert router.revision("unknown") is None


def test_a_reload_invalidates_what_the_old_file_answered(mock: MockUpstream, tmp_path: Path) -> None:
    import asyncio

    from apps.api.src.application import create_app
    from apps.api.src.wiring.gateway import build_gateway
    from apps.api.src.wiring.services import Services
    from apps.api.src.wiring.stores import build_cache
    from apps.cache.front import CacheFront
    from apps.models.metering import Meter
    from apps.tests.support.serving import serving, settings

    def content(target: str) -> dict[str, Any]:
        return {"providers": {"main": provider(mock.base_url)}, "models": {"chat": name(target)}}

    routed = routing_file(tmp_path, content("echo"))
    configured = settings(gateway_config=routed, cache_storage="mem://", auth="off")
    gateway = build_gateway(configured, _nobody())
    cache = build_cache(configured)
    assert cache is not None
    app = create_app(configured, Services(_nobody(), _nobody(), gateway, front=CacheFront(cache, Meter())))

    @app.post("/reload")
    async def reload() -> None:
        gateway.reload()
        await asyncio.sleep(0)

    def ask() -> tuple[str, str]:
        answer = httpx2.post(url + CHAT, json={"model": "chat", **ZERO}, timeout=90)
        return answer.headers["X-Cache"], answer.headers["X-Model"]

    with serving(app) as url:
        assert [ask(), ask()] == [("miss", "echo"), ("hit", "echo")]
        httpx2.post(f"{url}/reload", timeout=90)
        assert ask() == ("hit", "echo")
        routing_file(tmp_path, content(HEALTHY))
        httpx2.post(f"{url}/reload", timeout=90)
        assert [ask(), ask()] == [("miss", HEALTHY), ("hit", HEALTHY)]


def _nobody() -> Any:
    from apps.models.scripted import ScriptedModel, saying

    return ScriptedModel(saying("x"), name="local")


@pytest.mark.long
def test_the_bound_in_bytes_holds_while_calls_come_in(mock: MockUpstream) -> None:
    with caching(openai_base_url=mock.base_url, cache_max_bytes=65_536) as cached:
        for number in range(60):
            text = f"{number}" * 1500
            answer = cached.ask(model="echo", messages=[{"role": "user", "content": text}])
            assert answer.status_code == 200
            assert cached.cache.store.size <= 65_536  # type: ignore[attr-defined]
        assert cached.cache.counts.kept == 60
        large = [cached.ask(model="echo", messages=[{"role": "user", "content": "x" * 20_000}]) for _ in range(2)]
        assert [answer.headers["X-Cache"] for answer in large] == ["miss", "miss"]
        assert cached.cache.counts.too_large == 2
