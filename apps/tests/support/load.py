"""Load on a service: calls one after the other on several connections, each with its status."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from apps.tests.overheard import hearing_client


@dataclass(frozen=True, slots=True)
class Seen:
    """``status`` 0: the connection broke; ``said`` is the body of a failure."""

    status: int
    said: str = ""


@dataclass(slots=True)
class Load:
    """``stop`` it, or let it run until its connections break."""

    url: str
    body: Mapping[str, Any]
    key: str
    seen: list[Seen] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        with hearing_client(timeout=90, headers=headers) as client:
            while not self._stopped.is_set():
                try:
                    answer = client.post(self.url, json=dict(self.body))
                    status, said = answer.status_code, "" if answer.is_success else answer.text
                except httpx2.HTTPError as error:
                    status, said = 0, type(error).__name__
                self.seen.append(Seen(status, said))
                if not status:
                    return

    def stop(self) -> None:
        self._stopped.set()

    def count(self, status: int) -> int:
        return sum(seen.status == status for seen in self.seen)


@contextmanager
def loading(url: str, body: Mapping[str, Any], key: str, connections: int = 4) -> Iterator[Load]:
    """Under way in the block, and over behind it."""
    load = Load(url, body, key)
    with ThreadPoolExecutor(connections) as pool:
        runs = [pool.submit(load.run) for _ in range(connections)]
        try:
            yield load
        finally:
            load.stop()
            for run in runs:
                run.result()
