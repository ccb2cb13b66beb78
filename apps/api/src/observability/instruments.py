"""The counters and histograms of one app, in a registry of its own, and the text of it that Prometheus reads.

Names follow Prometheus' rules: the prefix `genai_`, base units, `_total` for what only grows. Imports
prometheus_client, so it is imported when the service starts and not with the app.
"""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from apps.core.ports import Observation

REQUEST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
CALL = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600)
FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
QUEUE = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60)


class Durations(Histogram):
    """A histogram that takes many values at once, and its locks once for all of them."""

    def observe_all(self, seconds: Sequence[float]) -> None:
        """As `observe` for each of them."""
        self._sum.inc(sum(seconds))
        for bucket, count in Tally(bisect_left(self._upper_bounds, one) for one in seconds).items():
            self._buckets[bucket].inc(count)


class Instruments:
    """``route`` is a template, ``status`` a number; ``model`` and ``provider`` are known names, `other` or `none`.

    ``observations`` are read at each scrape.
    """

    def __init__(self, observations: Callable[[], Iterable[Observation]]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Scrape(observations))
        # a second series for each, with the time when it was made, is of no use
        disable_created_metrics()  # type: ignore[no-untyped-call]

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Durations:
            return Durations(name, text, labels, buckets=buckets, registry=registry)

        self.requests = counter(
            "genai_http_requests_total", "HTTP requests that ended; 499: the client left", "route", "method", "status"
        )
        self.request_seconds = histogram(
            "genai_http_request_duration_seconds", "From a request to its answer's end", REQUEST, "route", "method"
        )
        self.calls = counter(
            "genai_calls_total",
            "Calls for a model that ended; outcome: ok, an error's code, CLIENT_GONE, CANCELLED or SHUT_DOWN",
            *("route", "model", "provider", "outcome"),
        )
        self.call_seconds = histogram(
            "genai_call_duration_seconds", "From a call's beginning to its end", CALL, "route", "model"
        )
        self.first_token_seconds = histogram(
            "genai_call_first_token_seconds",
            "From a call's beginning to its first token",
            FIRST_TOKEN,
            "route",
            "model",
        )
        self.per_token_seconds = histogram(
            "genai_call_per_token_seconds",
            "Between two tokens: a call's mean, from its first token to its end",
            PER_TOKEN,
            *("route", "model"),
        )
        self.queue_seconds = histogram(
            "genai_call_queue_seconds", "What a call waited for its place at a provider", QUEUE, "provider"
        )
        self.tokens = counter(
            "genai_tokens_total", "Tokens used; kind: prompt or completion", "model", "provider", "kind"
        )
        self.cached_tokens = counter(
            "genai_cached_prompt_tokens_total", "Tokens of prompts that were not computed again", "model", "provider"
        )
        self.cost = counter("genai_cost_usd_total", "US dollars spent", "model", "provider")
        self.saved = counter("genai_saved_usd_total", "US dollars that cached answers would have cost", "model")
        self.cache_uses = counter(
            "genai_cache_uses_total", "Calls by what the response cache did: miss, hit, semantic, replay", "use"
        )
        self.attempts = counter("genai_call_attempts_total", "Attempts on upstreams", "model", "provider")
        self.retries = counter("genai_call_retries_total", "Attempts behind a call's first", "model", "provider")
        self.observer_errors = counter(
            "genai_observer_errors_total", "Parts whose numbers could not be read at a scrape", "part"
        )

    def text(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text, in the newest format that ``accept`` asks for."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self.registry)


class _Scrape:
    """prometheus_client's protocol of a collector, over what is observed."""

    def __init__(self, observations: Callable[[], Iterable[Observation]]) -> None:
        self._observations = observations

    def describe(self) -> Iterable[Metric]:
        """Nothing before the first scrape: the live objects need not be there yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for one in self._observations():
            family = families.get(one.name)
            if family is None:
                kind = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
                family = families[one.name] = kind(one.name, one.help, labels=list(one.labels))
            family.add_metric(list(one.labels.values()), one.value)  # type: ignore[attr-defined]
        return families.values()
