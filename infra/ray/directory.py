"""The list of replicas that gateways read: an actor of Ray at the head of the cluster, and no more than a server."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# a replica that has not been heard of for so long is not listed
FORGOTTEN_SECONDS = 6.0


class Directory:
    """Lists the addresses of replicas at GET /replicas: those that have said lately that they are there."""

    def __init__(self, port: int, now: Callable[[], float] = time.monotonic) -> None:
        self._heard: dict[str, float] = {}
        self._now = now
        directory = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(directory.addresses()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """A line for each look-up would be all that the log has."""

        self._server = ThreadingHTTPServer(("", port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def beat(self, address: str) -> None:
        self._heard[address] = self._now()

    def leave(self, address: str) -> None:
        self._heard.pop(address, None)

    def addresses(self) -> list[str]:
        now = self._now()
        # replicas come and go while gateways read
        return sorted(address for address, at in self._heard.copy().items() if now - at < FORGOTTEN_SECONDS)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
