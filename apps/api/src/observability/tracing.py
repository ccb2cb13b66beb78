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
from typing import Any

from fastapi.telemetry import TelemetryConfig
from fastapi.telemetry._api import _route_selected

from apps.api.src.observability.call_metrics import KnownNames
from apps.api.src.observability.request_line import Redactor, secrets_of
from apps.core.calls import Bookkeeper
from apps.core.settings import Settings

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
        # imports the SDK, which a start without an endpoint does not need
        from apps.api.src.observability.call_spans import Telemetry

        self._telemetry = Telemetry(traces, metrics, Redactor(secrets_of(settings)), prompts=settings.log_prompts)

    @property
    def config(self) -> TelemetryConfig:
        """For ``FastAPI(telemetry=...)``. Its logs would hold messages of exceptions, and so what callers sent."""
        tracers, meters = self._telemetry.tracers, self._telemetry.meters
        return TelemetryConfig(
            tracer_provider=tracers,
            meter_provider=meters,
            tracing=tracers is not None,
            metrics=meters is not None,
            logs=False,
            operation_spans=False,
            auto_configure=False,
            exclude=_untraced,
        )

    def call_spans(self, models: KnownNames, providers: KnownNames) -> Bookkeeper:
        """The bookkeeper that makes a span of each call for a model."""
        return self._telemetry.call_spans(models, providers)

    def headers(self) -> Mapping[str, str]:
        """The headers that tie a call of an upstream to the current trace."""
        return self._telemetry.headers()

    async def aclose(self) -> None:
        """Send what is left, for a while; what a dead collector does not take is lost."""
        # a thread of our own: the loop's executor would be waited for without an end
        thread = threading.Thread(target=self._telemetry.shut_down, name="telemetry-shutdown", daemon=True)
        thread.start()
        ends = time.monotonic() + FLUSH_SECONDS
        while thread.is_alive():
            if time.monotonic() > ends:
                log.warning("The OpenTelemetry collector did not take the last spans within %.0f s", FLUSH_SECONDS)
                return
            await asyncio.sleep(0.01)


def served_by(scope: MutableMapping[str, Any], path: str) -> None:
    """Tell FastAPI's telemetry the route of a request that went past its router."""
    if scope.get("fastapi.telemetry") is not None:
        _route_selected(scope=scope, path=path)


def trace_of(scope: MutableMapping[str, Any]) -> str | None:
    """The id of the trace that a request is part of, as hexadecimal digits; None where it is not traced."""
    telemetry = scope.get("fastapi.telemetry")
    span = telemetry.span if telemetry is not None else None
    return f"{span.get_span_context().trace_id:032x}" if span is not None else None


def _untraced(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"] in UNTRACED
