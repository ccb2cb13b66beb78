"""OpenTelemetry's SDK: its providers, a span a call for a model, and the two client metrics of the GenAI conventions.

Imported where an endpoint is set. The names are those of opentelemetry.semconv's incubating package (1.45), written
out: it marks all of them as moved.
"""

from dataclasses import dataclass
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from apps.api.src.observability.call_metrics import KnownNames
from apps.api.src.observability.request_line import Redactor, current_line
from apps.core.calls import CallRecord
from apps.core.errors import REDACTED
from apps.core.process import NAME, VERSION

OPERATIONS = {"/v1/embeddings": "embeddings", "/v1/completions": "text_completion"}
LONGEST_NAME = 200
DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class Telemetry:
    """The SDK's providers of one app, for the signals that have an endpoint."""

    def __init__(self, traces: str | None, meters: str | None, redact: Redactor, *, prompts: bool) -> None:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over our own names
        own = Resource.create({"service.name": NAME, "service.version": VERSION})
        resource = own.merge(OTELResourceDetector().detect())
        self._redact = redact
        self._prompts = prompts
        self.tracers = _tracer_provider(resource, traces, redact) if traces else None
        self.meters = _meter_provider(resource, meters) if meters else None

    def call_spans(self, models: KnownNames, providers: KnownNames) -> "CallSpans":
        return CallSpans(self.tracers, self.meters, models, providers, self._redact, prompts=self._prompts)

    def headers(self) -> dict[str, str]:
        """The headers of the current trace."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    def shut_down(self) -> None:
        """Send what is left; blocks."""
        for provider in (self.tracers, self.meters):
            if provider is not None:
                provider.shutdown()


def _tracer_provider(resource: Resource, endpoint: str, redact: Redactor) -> TracerProvider:
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(Discretion(redact))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


def _meter_provider(resource: Resource, endpoint: str) -> MeterProvider:
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint))
    return MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)


@dataclass(slots=True)
class _Open:
    """A call under way: its span, the context that holds it, and the one that was there before."""

    span: trace.Span
    inside: Context
    before: Context


class CallSpans:
    """A Bookkeeper. ``prompts``: what was asked goes into the span."""

    def __init__(
        self,
        tracers: trace.TracerProvider | None,
        meters: metrics.MeterProvider | None,
        models: KnownNames,
        providers: KnownNames,
        redact: Redactor,
        *,
        prompts: bool,
    ) -> None:
        self._tracer = (tracers or trace.NoOpTracerProvider()).get_tracer("apps")
        meter = (meters or metrics.NoOpMeterProvider()).get_meter("apps")
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=DURATION,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._models = models
        self._providers = providers
        self._redact = redact
        self._prompts = prompts
        self._open: dict[str, _Open] = {}

    async def opening(self, call: CallRecord) -> None:
        requested, operation = self._redact(call.requested_model[:LONGEST_NAME]), _operation(call)
        attributes: dict[str, Any] = {"gen_ai.operation.name": operation, "gen_ai.request.stream": call.streamed}
        if requested:
            attributes["gen_ai.request.model"] = requested
        line = current_line.get()
        if self._prompts and line is not None and line.prompt is not None:
            attributes["gen_ai.input.messages"] = self._redact(line.prompt)
        span = self._tracer.start_span(f"{operation} {requested}".rstrip(), kind=SpanKind.CLIENT, attributes=attributes)
        before = otel_context.get_current()
        inside = trace.set_span_in_context(span)
        otel_context.attach(inside)
        self._open[call.id] = _Open(span, inside, before)

    def closing(self, call: CallRecord) -> None:
        opened = self._open.pop(call.id)
        # a call may end in another task than it began in, whose context is not ours to turn back
        if otel_context.get_current() is opened.inside:
            otel_context.attach(opened.before)
        opened.span.set_attributes({name: value for name, value in self._outcome(call) if value is not None})
        if call.outcome != "ok":
            opened.span.set_status(StatusCode.ERROR)
        self._measure(call, opened.inside)
        opened.span.end()

    def _outcome(self, call: CallRecord) -> list[tuple[str, Any]]:
        return [
            ("gen_ai.provider.name", call.provider or "unknown"),
            ("gen_ai.response.model", self._redact(call.model[:LONGEST_NAME]) or None),
            ("gen_ai.usage.input_tokens", call.prompt_tokens),
            ("gen_ai.usage.output_tokens", call.completion_tokens),
            ("gen_ai.usage.cache_read.input_tokens", call.cached_tokens or None),
            ("gen_ai.response.time_to_first_chunk", call.first_token),
            ("error.type", call.outcome if call.outcome != "ok" else None),
            ("genai.attempts", call.attempts),
            ("genai.cache", call.cache),
            ("genai.queue.seconds", call.queued),
            ("genai.cost.usd", call.cost),
        ]

    def _measure(self, call: CallRecord, context: Context) -> None:
        """Labels are of a bounded set here, as everywhere among metrics."""
        labels = {
            "gen_ai.operation.name": _operation(call),
            "gen_ai.provider.name": self._providers.label(call.provider),
            "gen_ai.request.model": self._models.label(call.requested_model),
            "gen_ai.response.model": self._models.label(call.model),
        }
        failure = {"error.type": call.outcome} if call.outcome != "ok" else {}
        self._duration.record(call.duration, {**labels, **failure}, context)
        for kind, tokens in (("input", call.prompt_tokens), ("output", call.completion_tokens)):
            if tokens is not None:
                self._tokens.record(tokens, {**labels, "gen_ai.token.type": kind}, context)


class Discretion(SpanProcessor):
    """Takes out of FastAPI's spans what a caller may have put there: the query, and keys in the path."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        attributes = span.attributes or {}
        if "url.query" in attributes:
            span.set_attribute("url.query", REDACTED)
        path = attributes.get("url.path")
        if isinstance(path, str):
            span.set_attribute("url.path", self._redact(path))


def _operation(call: CallRecord) -> str:
    return OPERATIONS.get(call.route, "chat")
