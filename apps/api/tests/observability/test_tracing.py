"""Traces and metrics for a collector: real processes of the service, and a collector on a real socket."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from apps.api.src.observability.tracing import open_tracing
from apps.tests.support.collector import Collector, Upstream, collector, upstream
from apps.tests.support.processes import Running, running
from apps.tests.support.serving import settings
from apps.tests.support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "200"}
MESSAGES = [{"role": "user", "content": "marked prompt"}]
SERVER, CLIENT = 2, 3
ENDLESS = 3600


@contextmanager
def traced(folder: Path, base_url: str, endpoint: str, **changes: str) -> Iterator[Running]:
    changes = {"OPENAI_BASE_URL": base_url, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **SOON, **changes}
    with running(folder, **changes) as service:
        yield service


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[Collector, Upstream]]:
    with collector() as taken, upstream() as asked:
        yield taken, asked


@pytest.fixture(scope="module")
def service(ends: tuple[Collector, Upstream], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with traced(tmp_path_factory.mktemp("traced"), ends[1].base_url, ends[0].url) as started:
        yield started


def ask(http: httpx2.Client, url: str, model: str, **fields: object) -> httpx2.Response:
    return http.post(
        f"{url}/v1/chat/completions?secret=marked-query",
        json={"model": model, "messages": MESSAGES, **fields},
        headers={"traceparent": TRACEPARENT},
    )


@pytest.mark.long
def test_a_call_is_a_span_in_its_callers_trace(
    service: Running, ends: tuple[Collector, Upstream], http: httpx2.Client
) -> None:
    taken, asked = ends
    assert ask(http, service.url, "gpt-4o-mini").status_code == 200
    assert until(lambda: bool(taken.named("chat gpt-4o-mini")))
    (call,) = taken.named("chat gpt-4o-mini")
    (request,) = [span for span in taken.named("POST /v1/chat/completions") if span.id == call.parent]
    assert (request.trace, request.parent, request.kind) == (TRACE, PARENT, SERVER)
    assert (call.trace, call.kind, call.failed) == (TRACE, CLIENT, False)
    assert request.attributes["http.route"] == "/v1/chat/completions"
    assert request.attributes["http.response.status_code"] == 200
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 4,
    }
    assert {name: call.attributes.get(name) for name in expected} == expected
    assert asked.headers[-1]["traceparent"] == f"00-{TRACE}-{call.id}-01"
    assert taken.resource["service.name"] == "genai-project"


def test_a_stream_by_way_of_the_sdk_is_traced_to_its_upstream_too(
    service: Running, ends: tuple[Collector, Upstream], http: httpx2.Client
) -> None:
    taken, asked = ends
    body = {"prompt": "hi", "model": "by-the-sdk"}
    answer = http.post(f"{service.url}/generate?stream=true", json=body, headers={"traceparent": TRACEPARENT})
    assert "event: done" in answer.text
    assert until(lambda: bool(taken.named("chat by-the-sdk")))
    (call,) = taken.named("chat by-the-sdk")
    assert asked.headers[-1]["traceparent"] == f"00-{TRACE}-{call.id}-01"
    assert call.attributes["gen_ai.response.time_to_first_chunk"] > 0


def test_a_call_that_fails_is_a_span_that_failed(
    service: Running, ends: tuple[Collector, Upstream], http: httpx2.Client
) -> None:
    taken, _ = ends
    assert ask(http, service.url, "fault").status_code == 400
    assert until(lambda: bool(taken.named("chat fault")))
    (call,) = taken.named("chat fault")
    assert call.failed
    assert call.attributes["error.type"] == "UPSTREAM_ERROR"


def test_metrics_have_the_names_of_the_conventions_and_labels_of_a_bounded_set(
    service: Running, ends: tuple[Collector, Upstream], http: httpx2.Client
) -> None:
    taken, _ = ends
    assert ask(http, service.url, "made-up-by-a-caller").status_code == 200
    wanted = {"gen_ai.client.operation.duration", "gen_ai.client.token.usage", "http.server.request.duration"}
    assert until(lambda: wanted <= set(taken.points))
    assert until(lambda: any(p.get("gen_ai.request.model") == "other" for p in points_of(taken)))
    assert not [point for point in points_of(taken) if "made-up-by-a-caller" in str(point)]
    kinds = {point["gen_ai.token.type"] for point in taken.points["gen_ai.client.token.usage"]}
    assert kinds == {"input", "output"}


def points_of(taken: Collector) -> list[dict[str, object]]:
    return [point for points in list(taken.points.values()) for point in points]


def test_a_line_of_the_access_log_names_its_trace(service: Running, http: httpx2.Client) -> None:
    ask(http, service.url, "gpt-4o-mini")
    assert until(lambda: f"trace_id={TRACE}" in service.log.read_text())


def test_health_checks_and_scrapes_are_no_traces(
    service: Running, ends: tuple[Collector, Upstream], http: httpx2.Client
) -> None:
    taken, _ = ends
    for path in ("/metrics", "/health", "/ready"):
        http.get(service.url + path)
    ask(http, service.url, "last")
    assert until(lambda: bool(taken.named("chat last")))
    assert not [span for span in taken.spans if span.attributes.get("url.path") in ("/metrics", "/health", "/ready")]


def test_prompts_and_queries_stay_out_of_traces(
    service: Running, ends: tuple[Collector, Upstream], http: httpx2.Client
) -> None:
    taken, _ = ends
    ask(http, service.url, "quiet", stream=True)
    assert until(lambda: bool(taken.named("chat quiet")))
    assert not [body for body in taken.raw if b"marked prompt" in body or b"marked-query" in body]


@pytest.mark.long
def test_log_prompts_puts_them_into_log_and_span(tmp_path: Path, http: httpx2.Client) -> None:
    with (
        collector() as taken,
        upstream() as asked,
        traced(tmp_path, asked.base_url, taken.url, LOG_PROMPTS="true") as service,
    ):
        ask(http, service.url, "told")
        http.post(f"{service.url}/generate", json={"prompt": "another prompt sk-0123456789abcdef"})
        assert until(lambda: bool(taken.named("chat told")))
        (call,) = taken.named("chat told")
        log = service.log.read_text()
    assert "marked prompt" in call.attributes["gen_ai.input.messages"]
    assert "marked prompt" in log
    assert "another prompt [redacted]" in log
    assert "sk-0123" not in log


@pytest.mark.parametrize("state", ["dead", "slow", "refusing"])
@pytest.mark.long
def test_a_collector_that_does_not_work_costs_no_request_and_no_time_at_the_end(
    state: str, tmp_path: Path, http: httpx2.Client
) -> None:
    with ExitStack() as stack:
        asked = stack.enter_context(upstream())
        taken = stack.enter_context(collector(wait=ENDLESS if state == "slow" else 0.0, status=503))
        endpoint = "http://127.0.0.1:1" if state == "dead" else taken.url
        # who waits for the collector, or tries again, does so for longer than this test lasts
        patience = {"OTEL_EXPORTER_OTLP_TIMEOUT": str(ENDLESS)}
        service = stack.enter_context(traced(tmp_path, asked.base_url, endpoint, **patience))
        for _ in range(200):
            assert ask(http, service.url, "gpt-4o-mini").status_code == 200
        service.end()
        log = service.log.read_text()
    assert "Application shutdown complete" in log
    assert "Traceback" not in log


@pytest.mark.long
def test_the_last_spans_are_sent_before_the_end(tmp_path: Path, http: httpx2.Client) -> None:
    with (
        collector() as taken,
        upstream() as asked,
        traced(tmp_path, asked.base_url, taken.url, OTEL_BSP_SCHEDULE_DELAY="60000") as service,
    ):
        ask(http, service.url, "gpt-4o-mini")
        assert not taken.spans
        service.end()
        assert taken.named("chat gpt-4o-mini")


def test_without_an_endpoint_nothing_of_the_sdk_is_there(tmp_path: Path, http: httpx2.Client) -> None:
    with upstream() as asked, running(tmp_path, OPENAI_BASE_URL=asked.base_url) as service:
        assert ask(http, service.url, "gpt-4o-mini").status_code == 200
        maps = Path(f"/proc/{service.process.pid}/maps").read_text() if Path("/proc/self/maps").exists() else ""
    assert "traceparent" not in asked.headers[-1]
    assert not re.search(r"google/(_upb|protobuf)", maps)


def test_the_standard_variables_turn_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    configured = settings(otel_exporter_otlp_endpoint="http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert open_tracing(configured) is None
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    assert open_tracing(configured) is None
    assert open_tracing(settings()) is None
