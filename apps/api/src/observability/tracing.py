"""OpenTelemetry: where an endpoint is set, requests (FastAPI's own telemetry) and calls for models go to a collector.

Off otherwise, and then nothing of the SDK is imported. Exporting happens in threads of the SDK: a collector that is
dead or slow costs spans, never a request, and the end of the service waits for it no longer than `FLUSH_SECONDS`.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig

from apps.api.src.observability.metrics.labels import KnownNames
from apps.api.src.observability.redaction import Redactor, secrets_of
from apps.core.settings import Settings
from apps.core.version import NAME, VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from apps.api.src.observability.call_spans import CallSpans

log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
UNTRACED = frozenset({"/metrics", "/health", "/healthz", "/ready"})
OFF = TelemetryConfig(tracing=False, metrics=False, logs=False, operation_spans=False, auto_configure=False)


def open_tracing(settings: Settings) -> "Tracing | None":
    """None where no endpoint is set, or the standard OTEL_SDK_DISABLED turns it off."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    traces, metrics = _endpoint(settings, "traces"), _endpoint(settings, "metrics")
    if traces is None and metrics is None:
        return None
    return Tracing(settings, traces, metrics)


def _endpoint(settings: Settings, signal: str) -> str | None:
    """By the standard's rules: a signal's own variable is a whole URL, the common one a base."""
    if os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp") == "none":
        return None
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    base = settings.otel_exporter_otlp_endpoint.rstrip("/")
    return own or (f"{base}/v1/{signal}" if base else None)


class Tracing:
    """The providers of one app: nothing of OpenTelemetry's globals is set."""

    def __init__(self, settings: Settings, traces: str | None, metrics: str | None) -> None:
        resource = _resource()
        self._redact = Redactor(secrets_of(settings))
        self._prompts = settings.log_prompts
        self._tracers = _tracer_provider(resource, traces, self._redact) if traces else None
        self._meters = _meter_provider(resource, metrics) if metrics else None

    @property
    def config(self) -> TelemetryConfig:
        """For ``FastAPI(telemetry=...)``. Its logs would hold messages of exceptions, and so what callers sent."""
        return TelemetryConfig(
            tracer_provider=self._tracers,
            meter_provider=self._meters,
            tracing=self._tracers is not None,
            metrics=self._meters is not None,
            logs=False,
            operation_spans=False,
            auto_configure=False,
            exclude=_untraced,
        )

    def call_spans(self, models: KnownNames, providers: KnownNames) -> "CallSpans":
        """The bookkeeper that makes a span of each call for a model."""
        from apps.api.src.observability.call_spans import CallSpans

        return CallSpans(self._tracers, self._meters, models, providers, self._redact, prompts=self._prompts)

    def headers(self) -> Mapping[str, str]:
        """What tells an upstream which trace its call belongs to."""
        from opentelemetry import propagate

        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    async def aclose(self) -> None:
        """Send what is left, for a while; what a dead collector does not take is lost."""
        # a thread of our own: the loop's executor would be waited for without an end
        thread = threading.Thread(target=self._shut_down, name="telemetry-shutdown", daemon=True)
        thread.start()
        ends = time.monotonic() + FLUSH_SECONDS
        while thread.is_alive():
            if time.monotonic() > ends:
                log.warning("The OpenTelemetry collector did not take the last spans within %.0f s", FLUSH_SECONDS)
                return
            await asyncio.sleep(0.01)

    def _shut_down(self) -> None:
        for provider in (self._tracers, self._meters):
            if provider is not None:
                provider.shutdown()


def served_by(scope: MutableMapping[str, Any], path: str) -> None:
    """Tell FastAPI's telemetry the route of a request that went past its router."""
    if scope.get("fastapi.telemetry") is not None:
        from fastapi.telemetry._api import _route_selected

        _route_selected(scope=scope, path=path)


def trace_of(scope: MutableMapping[str, Any]) -> str | None:
    """The id of the trace that a request is part of, as hexadecimal digits; None where it is not traced."""
    telemetry = scope.get("fastapi.telemetry")
    span = telemetry.span if telemetry is not None else None
    return f"{span.get_span_context().trace_id:032x}" if span is not None else None


def _untraced(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"] in UNTRACED


def _resource() -> "Resource":
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over our own names."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    return Resource.create({"service.name": NAME, "service.version": VERSION}).merge(OTELResourceDetector().detect())


def _tracer_provider(resource: "Resource", endpoint: str, redact: Redactor) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from apps.api.src.observability.call_spans import Discretion

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(Discretion(redact))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


def _meter_provider(resource: "Resource", endpoint: str) -> "MeterProvider":
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint))
    return MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
