"""What is observed at a scrape: parts with numbers of their own, the gateway, and names as they become known."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import httpx2
import pytest

from apps.api.src.observability.call_metrics import KnownNames
from apps.api.src.observability.metrics import Metrics
from apps.core.ports import Observation
from apps.tests.support.routing import ASK, name, provider, routing_file
from apps.tests.support.scraping import Scrape, scrape
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream


class Part:
    """Something observed: limits, a queue, a cache."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def observations(self) -> Iterable[Observation]:
        yield Observation("genai_part_losses_total", "Lost", 3, "counter")
        yield Observation("genai_part_queue_length", "Waiting", 2, labels={"of": "a"})
        if self.broken:
            raise RuntimeError("out of order")
        yield Observation("genai_part_queue_length", "Waiting", 4, labels={"of": "b"})


def test_a_part_with_numbers_of_its_own_is_one_entry() -> None:
    seen = Scrape(Metrics(observed=[Part()], version="9.9").render()[1].decode())
    assert seen.sum("genai_part_losses_total") == 3
    assert seen.sum("genai_part_queue_length", of="a") == 2
    assert seen.sum("genai_part_queue_length") == 6
    assert seen.kinds["genai_part_losses"] == "counter"
    assert seen.sum("genai_build_info", version="9.9") == 1


def test_a_part_that_is_broken_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(observed=[Part(broken=True), Part()])
    metrics.render()
    seen = Scrape(metrics.render()[1].decode())
    assert seen.sum("genai_part_queue_length") == 6
    assert seen.sum("genai_observer_errors_total", part="Part") >= 1
    assert "out of order" in caplog.text


def test_the_gateway_tells_its_breakers_budgets_and_places(mock: MockUpstream, tmp_path: Path) -> None:
    file = routing_file(
        tmp_path,
        {
            "providers": {"main": provider(mock.base_url, max_concurrency=7)},
            "models": {"sick": name("fault-500"), "well": name("gpt-4o-mini")},
        },
    )
    with (
        serving_models(gateway_config=file, retry_backoff=0) as base,
        httpx2.Client(timeout=90) as http,
    ):
        for _ in range(12):
            assert http.post(f"{base}/v1/chat/completions", json={"model": "sick", **ASK}).status_code >= 500
        assert http.post(f"{base}/v1/chat/completions", json={"model": "well", **ASK}).status_code == 200
        seen = scrape(base)
    assert seen.sum("genai_breaker_state", provider="main", model="fault-500") == 2
    assert seen.sum("genai_breaker_state", provider="main", model="gpt-4o-mini") == 0
    assert seen.sum("genai_retry_budget_left", model="sick") < seen.sum("genai_retry_budget_left", model="well") == 10
    assert seen.sum("genai_provider_slots", provider="main") == 7
    assert seen.sum("genai_call_retries_total") > 0
    assert seen.sum("genai_calls_total", model="gpt-4o-mini", provider="main", outcome="ok") == 1
    assert seen.sum("genai_call_queue_seconds_count", provider="main") == 1


def test_a_name_becomes_known_within_a_second_and_not_by_asking_often() -> None:
    names, now, reads = ["a"], [0.0], []

    def read() -> Sequence[str]:
        reads.append(1)
        return names

    labels = KnownNames(read, lambda: now[0])
    assert [labels.label(one) for one in ("a", "b", "")] == ["a", "other", "none"]
    names.append("b")
    assert labels.label("b") == "other"
    now[0] = 1.0
    assert labels.label("b") == "b"
    for number in range(1000):
        labels.label(f"made up {number}")
    assert len(reads) == 2
