"""/metrics: what happened is counted exactly, under names of a bounded set, and read fast."""

import json
import random
import re
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from apps.api.src.application import create_app
from apps.api.src.observability.call_metrics import KnownNames
from apps.api.src.observability.instruments import Durations
from apps.api.src.observability.metrics import Metrics
from apps.api.src.wiring.gateway import build_gateway
from apps.api.src.wiring.services import on_record
from apps.core.callers import ANONYMOUS
from apps.core.calls import CallRecord, Usage
from apps.core.deltas import Delta
from apps.core.errors import UpstreamError
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.reading import ask, connect, read_to_end
from apps.tests.support.scraping import Scrape, scrape
from apps.tests.support.serving import serving_models, settings
from apps.tests.support.waiting import until

CALLS = 200
HOSTILE_REQUESTS = 10_000


def answering(request: ChatRequest) -> list[Step]:
    """Two words and their tokens; "endless" says words for ever, "broken" fails after the first."""
    prompt = request.messages[0].content
    if prompt == "endless":
        endless: list[Step] = [Delta("word "), 0.01]
        return [Delta("word ", model="scripted"), *endless * 2000]
    if prompt == "broken":
        return [Delta("word ", model="scripted"), UpstreamError("no more")]
    words: list[Step] = [Delta("one ", model="scripted"), 0.02, Delta("two", model="scripted")]
    return [*words, Delta(finish_reason="stop", usage=Usage(5, 2, 3), model="scripted")]


@pytest.fixture
def url() -> Iterator[str]:
    with serving_models(local=ScriptedModel(answering)) as base:
        yield base


def leave(url: str) -> None:
    """Read the beginning of a stream, then reset the connection."""
    with connect(url) as connection:
        connection.sendall(ask("/local/generate?stream=true", "endless"))
        assert b"word" in connection.recv(65536) + connection.recv(65536)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def finish(url: str, prompt: str) -> None:
    with connect(url) as connection:
        connection.sendall(
            ask("/local/generate?stream=true", prompt).replace(b"Host: x", b"Host: x\r\nConnection: close")
        )
        read_to_end(connection)


def test_counters_are_exact_under_concurrent_calls_of_which_some_fail_and_some_leave(url: str) -> None:
    work = [lambda: finish(url, "fine")] * 100 + [lambda: finish(url, "broken")] * 40 + [lambda: leave(url)] * 60
    random.shuffle(work)
    with ThreadPoolExecutor(CALLS) as pool:
        list(pool.map(lambda call: call(), work))
    assert until(lambda: scrape(url).sum("genai_http_requests_total", route="/local/generate") == CALLS)
    seen = scrape(url)
    calls = {
        outcome: seen.sum("genai_calls_total", route="/local/generate", model="scripted", outcome=outcome)
        for outcome in ("ok", "UPSTREAM_ERROR", "CLIENT_GONE")
    }
    assert calls == {"ok": 100, "UPSTREAM_ERROR": 40, "CLIENT_GONE": 60}
    assert seen.sum("genai_calls_total") == CALLS
    assert seen.sum("genai_calls_in_progress") == 0
    assert seen.sum("genai_call_duration_seconds_count") == CALLS
    assert seen.sum("genai_call_first_token_seconds_count") == CALLS
    assert seen.sum("genai_call_per_token_seconds_count") == 100
    assert 0.02 < seen.sum("genai_call_per_token_seconds_sum") / 100 < 2
    # what broke off or was left told no usage: its tokens are reckoned, and come on top
    assert seen.sum("genai_tokens_total", kind="prompt") >= 500
    assert seen.sum("genai_tokens_total", kind="completion") >= 200
    assert seen.sum("genai_cached_prompt_tokens_total") == 300
    assert seen.sum("genai_http_request_duration_seconds_count", route="/local/generate") == CALLS


class Hostile:
    """Sends what nobody sends: to the app itself, since a server would not let all of it through."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._chance = random.Random(7)

    def _text(self) -> str:
        letters = 'marked"\\\n{},=\x00\x7f\u2028é/%'
        return "marked" + "".join(self._chance.choices(letters, k=12)) + str(self._chance.random())

    def requests(self, count: int) -> Iterator[tuple[str, str, bytes]]:
        paths = ["/v1/chat/completions", "/v1/embeddings", "/generate", "/local/generate", "/v1/models/{}", "/{}"]
        for number in range(count):
            method = self._text() if number % 7 == 0 else self._chance.choice(["GET", "POST", "PUT", "DELETE"])
            body = {"model": self._text(), "messages": [], "input": self._text(), "prompt": self._text()}
            yield method, self._chance.choice(paths).format(self._text()), json.dumps(body).encode()

    async def send(self, method: str, path: str, body: bytes) -> None:
        raw = path.encode("utf-8", "surrogatepass")
        headers = [(b"content-type", b"application/json"), (b"host", self._text().encode())]
        scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "raw_path": raw, "headers": headers}
        scope |= {"query_string": raw, "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1)}
        scope |= {"server": ("127.0.0.1", 80), "root_path": "", "state": {}}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def ignore(message: Any) -> None:
            """Nobody reads."""

        await self._app(scope, receive, ignore)


@pytest.mark.long
async def test_no_caller_can_make_a_series() -> None:
    configured = settings(auth="off")
    model = ScriptedModel(answering)
    services = on_record(configured, model, model, build_gateway(configured, model))
    hostile = Hostile(create_app(configured, services))
    counts = []
    for batch in (500, HOSTILE_REQUESTS - 500):
        for request in hostile.requests(batch):
            await hostile.send(*request)
        counts.append(len(Scrape(services.metrics.render()[1].decode()).samples))
    seen = Scrape(services.metrics.render()[1].decode())
    assert seen.sum("genai_http_requests_total") == HOSTILE_REQUESTS
    # which status a route answers with first is chance; that there are no more of them is not
    assert counts[1] - counts[0] < 100
    assert counts[1] < 2000
    assert "marked" not in seen.text
    assert seen.values("method") == {"GET", "POST", "PUT", "DELETE", "other"}
    assert seen.values("model") <= {"scripted", "gpt-4o-mini", "all-MiniLM-L6-v2", "other"}
    await services.aclose()


def known(count: int) -> KnownNames:
    return KnownNames(lambda: [f"model-{number}" for number in range(count)])


def many_calls(metrics: Metrics, models: int) -> None:
    for number in range(models):
        for route in ("/generate", "/local/generate", "/v1/chat/completions", "/v1/embeddings"):
            for outcome in ("ok", "TIMEOUT", "CLIENT_GONE"):
                call = CallRecord(ANONYMOUS, route, "x", model=f"model-{number}", outcome=outcome, attempts=1)
                call.first_token, call.duration = 0.1, 1.0
                call.usage = Usage(3, 5)
                metrics.calls.closing(call)


@pytest.mark.long
def test_a_scrape_writes_each_series_once_and_a_call_more_adds_none() -> None:
    """What a scrape costs is bounded by the names that are known, not by the calls that were."""
    metrics = Metrics(known(24))
    many_calls(metrics, 24)
    lines = metrics.render()[1].splitlines()
    assert 4000 < len(lines) < 40_000
    series = [line.rpartition(b" ")[0] for line in lines if not line.startswith(b"#")]
    assert len(series) == len(set(series))
    many_calls(metrics, 24)
    assert len(metrics.render()[1].splitlines()) == len(lines)


def test_names_follow_prometheus_rules(url: str, http: httpx2.Client) -> None:
    http.post(f"{url}/local/generate", json={"prompt": "fine"})
    seen = scrape(url)
    families = [family for family in seen.kinds if not family.startswith("process_")]
    assert [family for family in families if not re.fullmatch(r"genai(_[a-z0-9]+)+", family)] == []
    for family, kind in seen.kinds.items():
        samples = seen.families[family]
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb)(_|$)", family)
        if kind == "counter":
            assert all(sample.endswith("_total") for sample in samples)
        elif kind == "histogram":
            assert family.endswith("_seconds")
        else:
            assert not family.endswith(("_total", "_count", "_sum", "_bucket"))


def test_every_metric_says_what_it_is(url: str) -> None:
    text = scrape(url).text
    told = set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    assert told == set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


def test_openmetrics_is_given_to_who_asks_for_it(url: str, http: httpx2.Client) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"
    answer = http.get(f"{url}/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    assert http.get(f"{url}/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


def test_metrics_are_not_limited(http: httpx2.Client) -> None:
    with serving_models(rate_limit_enabled=True) as base:
        assert {http.get(f"{base}/metrics").status_code for _ in range(100)} == {200}


def test_models_tell_their_state(url: str) -> None:
    seen = scrape(url)
    assert seen.sum("genai_model_state", role="local", state="ready") == 1
    assert seen.sum("genai_model_state", role="cloud") == 1


def test_one_call_that_cannot_be_counted_costs_no_other_its_numbers() -> None:
    metrics = Metrics(known(1))
    for tokens in (5, -1, 5):
        call = CallRecord(ANONYMOUS, "/generate", "x", model="model-0", attempts=1)
        call.usage = Usage(3, tokens)
        metrics.calls.closing(call)
    _, text = metrics.render()
    line = next(line for line in text.splitlines() if b"genai_tokens_total{" in line and b"completion" in line)
    assert line.endswith(b" 10.0")


def test_values_that_are_observed_together_count_as_one_by_one() -> None:
    registry = CollectorRegistry()
    apart, together = (Durations(name, "Seconds", buckets=(0.1, 1, 10), registry=registry) for name in ("a", "b"))
    values = (0.0, 0.1, 0.11, 1.0, 3.0, 3.0, 11.0)
    for value in values:
        apart.observe(value)
    together.observe_all(values)
    one, other = (
        [(s.name[1:], s.labels, s.value) for s in next(iter(each.collect())).samples if not s.name.endswith("_created")]
        for each in (apart, together)
    )
    assert one == other
