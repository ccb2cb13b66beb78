"""Apps with a response cache, for tests: callers by a header, and a bookkeeper that remembers every record."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.api.src.application import create_app
from apps.api.src.wiring.gateway import build_cloud, build_gateway
from apps.api.src.wiring.services import Services
from apps.api.src.wiring.stores import build_cache
from apps.cache.front import CacheFront
from apps.cache.response_cache import Counts, ResponseCache
from apps.core.callers import Caller
from apps.core.calls import CallRecord
from apps.core.ports import ChatModel, Embedder
from apps.models.metering import Meter
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.routing import ASK, HEALTHY
from apps.tests.support.serving import serving, settings
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

CHAT = "/v1/chat/completions"
ZERO = {**ASK, "temperature": 0}


@dataclass(slots=True)
class Books:
    """A bookkeeper that remembers."""

    closed: list[CallRecord] = field(default_factory=list)
    opened: int = 0

    async def opening(self, call: CallRecord) -> None:
        """Nothing is refused."""
        self.opened += 1

    def renew(self) -> None:
        """Forget all calls, which have ended: an answer is there a moment before its record is closed."""
        assert until(lambda: self.opened == len(self.closed))
        self.closed.clear()
        self.opened = 0

    def closing(self, call: CallRecord) -> None:
        self.closed.append(call)


class CallerByHeader:
    """Stands where authentication does: `X-Tenant` names the tenant, `X-Semantic` the least cosine.

    ``tests`` counts the tests that one app has served: each has tenants of its own, which share no cached response.
    """

    def __init__(self, app: ASGIApp, tests: list[int]) -> None:
        self._app = app
        self._tests = tests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        least = headers.get(b"x-semantic")
        tenant = f"{headers.get(b'x-tenant', b'a').decode()}-{len(self._tests)}"
        scope["caller"] = Caller(tenant, semantic_cache=float(least) if least else None)
        await self._app(scope, receive, send)


@dataclass(slots=True)
class Cached:
    """A served app; what its cache and its books know."""

    url: str
    cache: ResponseCache
    books: Books
    tests: list[int] = field(default_factory=list)

    def renew(self) -> None:
        """Serve the next test: nothing is cached, counted or on record."""
        self.tests.append(len(self.tests))
        self.books.renew()
        self.cache.counts = Counts()

    def ask(self, path: str = CHAT, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        body = {"model": HEALTHY, **ZERO, **fields} if path == CHAT else fields
        return httpx2.post(self.url + path, json=body, headers=headers or {}, timeout=90)

    def uses(self) -> list[str]:
        return [record.cache for record in self.books.closed]


@contextmanager
def caching(
    local: ChatModel | None = None, cloud: ChatModel | None = None, embedder: Embedder | None = None, **changes: object
) -> Iterator[Cached]:
    given = {"auth": "off", "cache_storage": "mem://", "retry_backoff": 0.01, "read_timeout": 1, **changes}
    configured = settings(**given)
    answering = local or ScriptedModel(saying("hello"), name="local")
    gateway = build_gateway(configured, answering, embedder)
    books, cache = Books(), build_cache(configured, embedder)
    assert cache is not None
    upstream = cloud or build_cloud(configured, gateway)
    meter = Meter([books])
    app = create_app(configured, Services(upstream, answering, gateway, embedder, meter, CacheFront(cache, meter)))
    served = Cached("", cache, books)
    app.add_middleware(CallerByHeader, tests=served.tests)
    with serving(app) as served.url:
        yield served


def requests(mock: MockUpstream) -> int:
    """How many the upstream has had since it was reset."""
    return int(mock.stats()["requests"])


def without_receipt(data: bytes) -> bytes:
    """A stream without what it says of its own call."""
    head, found, tail = data.partition(b": receipt ")
    assert found
    return head + tail.partition(b"\n\n")[2]
