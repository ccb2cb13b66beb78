"""An HTTP proxy that changes names alone: paths, the `model` of a request, and the name and build in an answer."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "keep-alive", "host", "accept-encoding")
SECONDS = 300


@dataclass(frozen=True, slots=True)
class Names:
    """Our names for theirs. ``fingerprint`` is the prefix that a suite expects of a build."""

    paths: Mapping[str, str]
    model_of: Callable[[str], str | None]
    fingerprint: str = "fp_"


@contextmanager
def renaming_proxy(service: str, names: Names) -> Iterator[str]:
    """The base URL of a proxy in front of ``service``; a caller's header ``X-Answer-Model`` names what answers it."""
    address = urlsplit(service)

    class Handler(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            path, _, query = self.path.partition("?")
            path = names.paths.get(path, path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
            shown = headers.pop("X-Answer-Model", "")
            ours = names.model_of(path)
            body = _renamed(body, ours)
            connection = HTTPConnection(address.hostname or "", address.port, timeout=SECONDS)
            try:
                target = f"{path}?{query}" if query else path
                connection.request(self.command, target, body or None, headers)
                self._answer(connection.getresponse(), ours, shown)
            finally:
                connection.close()

        def _answer(self, answer: HTTPResponse, ours: str | None, shown: str) -> None:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while part := answer.readline():
                part = part.replace(b'"fp_', f'"{names.fingerprint}'.encode())
                if ours and shown:
                    part = part.replace(f'"{ours}"'.encode(), f'"{shown}"'.encode())
                self.wfile.write(part)
                self.wfile.flush()

        do_GET = do_POST = do_DELETE = do_OPTIONS = do_HEAD = _forward

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: pytest shows what failed."""

    with serving(Handler) as url:
        yield url


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The base URL of a server of its own for ``handler``, in threads."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _renamed(body: bytes, model: str | None) -> bytes:
    if model is None or not body.lstrip().startswith(b"{"):
        return body
    try:
        read = json.loads(body)
    except ValueError:
        return body
    return json.dumps({**read, "model": model}).encode()
