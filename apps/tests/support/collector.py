"""Stand-ins for a trace's two ends: a collector that takes OTLP over HTTP, and an upstream that keeps what it was sent.

Both are real servers on free ports. The collector decodes what it gets with OpenTelemetry's own protobuf classes.
"""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from apps.tests.watch import WATCH

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


@dataclass(slots=True)
class Span:
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    failed: bool
    attributes: dict[str, Any]


@dataclass(slots=True)
class Collector:
    """``wait`` seconds pass before it answers, with ``status``. ``raw`` holds every body as it came, unpacked."""

    url: str = ""
    status: int = 200
    wait: float = 0.0
    raw: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    points: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    resource: dict[str, Any] = field(default_factory=dict)

    def take(self, path: str, body: bytes) -> None:
        WATCH.took(f"what a collector got at {path}", body)
        self.raw.append(body)
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = _attributes(resource.resource.attributes)
                self.spans += [_span(span) for scope in resource.scope_spans for span in scope.spans]
        elif path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                    data = metric.histogram if metric.HasField("histogram") else metric.sum
                    self.points[metric.name] = [_attributes(point.attributes) for point in data.data_points]

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]


def _span(span: Any) -> Span:
    return Span(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.status.code == 2,
        _attributes(span.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def _server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def collector(**behaviour: Any) -> Iterator[Collector]:
    taken = Collector(**behaviour)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            taken.take(self.path, body)
            time.sleep(taken.wait)
            self.send_response(taken.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    with _server(Handler) as taken.url:
        yield taken


@dataclass(slots=True)
class Upstream:
    base_url: str = ""
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Answers every chat completion with one word, streamed where that is asked for."""
    kept = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: two would wait for each other

        def do_POST(self) -> None:
            kept.headers.append({name.lower(): value for name, value in self.headers.items()})
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if asked["model"] == "fault":
                return self._send(400, b"{}", "application/json")
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word"}}
            answer = {"id": "x", "object": "chat.completion", "model": asked["model"], "usage": USAGE}
            if not asked.get("stream"):
                return self._send(200, json.dumps({**answer, "choices": [choice]}).encode(), "application/json")
            delta = {"index": 0, "delta": {"content": "word"}, "finish_reason": None}
            events = [{"choices": [delta]}, {"choices": [{**delta, "delta": {}, "finish_reason": "stop"}]}]
            events.append({**answer, "choices": []})
            data = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
            return self._send(200, data.encode(), "text/event-stream")

        def _send(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    with _server(Handler) as url:
        kept.base_url = f"{url}/v1"
        yield kept
