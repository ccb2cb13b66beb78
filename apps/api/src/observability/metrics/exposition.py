"""The metrics of one app: what counts, what is observed, and the text that Prometheus reads.

Each process counts for itself: behind one port, several workers answer scrapes in turn with different numbers. Run one
process a port, and let Prometheus scrape each.
"""

import logging
import platform
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from apps.api.src.observability.metrics.call_metrics import CallMetrics, RequestMetrics
from apps.api.src.observability.metrics.labels import KnownNames
from apps.api.src.observability.metrics.loop_lag import LoopLag
from apps.core.ports import Observation, Observed

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from apps.api.src.observability.metrics.instruments import Instruments

log = logging.getLogger(__name__)


class Metrics:
    """``models`` and ``providers`` bound the labels of those names; ``observed`` are asked at each scrape.

    prometheus_client is imported at the first use, and `warm` is one.
    """

    def __init__(
        self,
        models: KnownNames | None = None,
        providers: KnownNames | None = None,
        observed: Sequence[Observed] = (),
        version: str = "",
    ) -> None:
        self.loop_lag = LoopLag()
        self.requests = RequestMetrics(lambda: self._instruments)
        self.calls = CallMetrics(lambda: self._instruments, models or KnownNames(), providers or KnownNames())
        self._observed: tuple[Observed, ...] = (self.loop_lag, self.calls, *observed)
        self._version = version

    def observe(self, *parts: Observed) -> None:
        """Ask these at each scrape, too."""
        self._observed += parts

    def warm(self) -> None:
        """Import and register now what the first request would wait for."""
        _ = self._registry, self._instruments

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """The content type and the text, in the newest format that ``accept`` asks for."""
        from prometheus_client.exposition import choose_encoder

        self.requests.settle()
        self.calls.settle()
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def summary(self) -> dict[str, list[dict[str, Any]]]:
        """Labels and values by metric, without the buckets of histograms and the times of creation."""
        self.requests.settle()
        self.calls.settle()
        values: dict[str, list[dict[str, Any]]] = {}
        for family in self._registry.collect():
            for sample in family.samples:
                if not sample.name.endswith(("_bucket", "_created")):
                    values.setdefault(sample.name, []).append({"labels": sample.labels, "value": sample.value})
        return values

    @cached_property
    def _registry(self) -> "CollectorRegistry":
        from prometheus_client import CollectorRegistry, ProcessCollector

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Scrape(self))
        return registry

    @cached_property
    def _instruments(self) -> "Instruments":
        from apps.api.src.observability.metrics.instruments import Instruments

        return Instruments(self._registry)

    def _observations(self) -> Iterator[Observation]:
        about = {"version": self._version, "python": platform.python_version()}
        yield Observation("genai_build_info", "The version that runs; always 1", 1.0, labels=about)
        for part in self._observed:
            try:
                yield from list(part.observations())
            except Exception:
                # one part that is broken must not hide all the others; this says which
                log.exception("The numbers of %s cannot be read", type(part).__name__)
                self._instruments.observer_errors.labels(type(part).__name__).inc()


class _Scrape:
    """prometheus_client's protocol of a collector, over what is observed."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable["Metric"]:
        """Nothing before the first scrape: the live objects need not be there yet."""
        return ()

    def collect(self) -> Iterable["Metric"]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, Metric] = {}
        for one in self._metrics._observations():
            family = families.get(one.name)
            if family is None:
                kind = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
                family = families[one.name] = kind(one.name, one.help, labels=list(one.labels))
            family.add_metric(list(one.labels.values()), one.value)  # type: ignore[attr-defined]
        return families.values()
