"""Sends a case's requests and keeps what came back. Judges nothing."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from eval.case_schema import Case, Request

TIMEOUT = httpx2.Timeout(90, connect=5)
FREE_AFTER = 1.0


class CallError(Exception):
    """A case could not be put to the server; the message says why."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer. ``cut`` says how the connection broke, where it did before the answer's end."""

    status: int
    headers: httpx2.Headers
    body: bytes
    seconds: float
    cut: str | None = None

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


def run(case: Case, base_url: str) -> Exchange:
    """Send what the case says, in its order; the last request's answer counts."""
    with httpx2.Client(base_url=base_url, timeout=TIMEOUT) as client:
        for _ in range(case.before):
            send(client, case.request)
        if case.meanwhile is None:
            return send(client, case.request)
        with kept_streaming(base_url, case.meanwhile):
            return send(client, case.request)


def send(client: httpx2.Client, request: Request) -> Exchange:
    content = request.content()
    headers = dict(request.headers)
    if request.json_body is not None and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json"
    body = bytearray()
    begun = time.perf_counter()
    payload = _in_chunks(content) if request.chunked and content is not None else content
    with client.stream(request.method, request.path, headers=headers, content=payload) as response:
        cut = None
        try:
            for piece in response.iter_bytes():
                body += piece
        except httpx2.TransportError as error:
            cut = f"{type(error).__name__}: {error}"
        return Exchange(response.status_code, response.headers, bytes(body), time.perf_counter() - begun, cut)


def _in_chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 65536):
        yield content[start : start + 65536]


@contextmanager
def kept_streaming(base_url: str, request: Request) -> Iterator[None]:
    """Have a streamed answer under way, from its first bytes on, for the time of a ``with`` block.

    When the block is over, what the answer held is free again: the contract gives the server a second for that.
    Raises CallError where it does not begin with status 200.
    """
    headers = {"Content-Type": "application/json", **request.headers}
    enough = threading.Event()
    with (
        httpx2.Client(base_url=base_url, timeout=TIMEOUT) as client,
        client.stream(request.method, request.path, headers=headers, content=request.content()) as response,
    ):
        if response.status_code != 200:
            response.read()
            raise CallError(f"the call to keep streaming got {response.status_code}: {response.text}")
        chunks = response.iter_raw()
        next(chunks)
        reader = threading.Thread(target=_drain, args=(chunks, enough))
        reader.start()
        try:
            yield
        finally:
            enough.set()
            reader.join()
    time.sleep(FREE_AFTER)


def _drain(chunks: Iterator[bytes], enough: threading.Event) -> None:
    for _ in chunks:
        if enough.is_set():
            return
