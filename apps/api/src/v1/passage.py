"""The parts of OpenAI's API that go to an upstream as they are: on record, within limits, without the caller's key.

They are audio, images, moderations, files, batches and stored responses.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from apps.api.src.auth.authentication import allow_model, caller_of
from apps.api.src.http.request import JSON_TYPE, RawRoute, header, parse_json, read_body, refuse_duplicates
from apps.api.src.http.shutdown import Shutdown
from apps.api.src.http.streaming import RawHeaders, StreamedResponse, raw
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.v1.execution import receipt_headers
from apps.api.src.v1.stored_responses import answered_here
from apps.api.src.wiring.services import Services
from apps.core.callers import ANONYMOUS, Caller
from apps.core.calls import ASSUMED_ANSWER, DISCONNECTED, CallRecord, Price, Usage, cost, priced
from apps.core.errors import Forbidden, InvalidType, UnsupportedMediaType
from apps.core.settings import Settings
from apps.gateway.protocol import BYTES_PER_TOKEN
from apps.gateway.routing.config import ANY_MODEL, Family
from apps.gateway.routing.targets import Provider
from apps.gateway.upstream.access import usage_in
from apps.gateway.upstream.passage import PassedCall
from apps.models.metering import Meter

FORM = "multipart/form-data"
# what the upstream keeps belongs to its account: every key that may come here sees all of it
KEPT: Sequence[Family] = (
    "files", "uploads", "batches", "responses", "conversations", "vector_stores", "fine_tuning", "videos", "containers",
    "evals",
)  # fmt: skip
# the upstream's business; everything else of a request stays here, its keys and cookies above all
PASSED_HEADERS = ("accept", "content-type", "openai-beta", "range")
# of a form, whose bytes say nothing of tokens
FORM_TOKENS = 1_000
# in the end of an answer its usage is looked for
TAIL_BYTES = 65_536


async def pass_on(request: Request, family: Family, route: str, rest: str = "") -> StreamedResponse:
    """The upstream's answer to this request. Raises what the upstream's choice, the caller's key and the body raise."""
    services: Services = request.app.state.services
    caller, segments = caller_of(request), (family, *rest.split("/")) if rest else (family,)
    provider, named = services.gateway.router.passage(family)
    if family in KEPT and not named and caller != ANONYMOUS:
        raise Forbidden(
            f"What {family} keep belongs to the upstream's one account, and every key would see it: to share it, name "
            f"a provider for `{family}` under `passage` in the routing file",
            details={"passage": family},
        )
    upload = await _upload_of(request, caller, services.gateway.router.is_local)
    record = CallRecord(caller, route, upload.model, estimated_tokens=upload.tokens if upload.costs else 0)
    price = _price(provider, upload.model)
    if caller.budget is not None and upload.costs:
        record.estimated_cost = None if price is None else cost(price, upload.tokens, ASSUMED_ANSWER)
    headers = {name: value for name in PASSED_HEADERS if (value := header(request.scope, name.encode()))}
    query = request.scope["query_string"].decode("latin-1")
    call = PassedCall(request.method, segments, query, headers, upload.pieces, upload.length)
    return PassedResponse(_Passing(provider, services.meter, record, call, upload, price), request.app.state.shutdown)


@dataclass(slots=True)
class _Upload:
    """A request's body on its way. ``read`` is set once nothing more of it will be asked for."""

    pieces: AsyncIterator[bytes] | None = None
    length: int | None = None
    model: str = ""
    tokens: int = 0
    costs: bool = False
    read: asyncio.Event = field(default_factory=asyncio.Event)


async def _upload_of(request: Request, caller: Caller, is_local: Callable[[str], bool]) -> _Upload:
    """Raises Forbidden where the caller's key is not for the model, or where the model cannot be known."""
    kind = (header(request.scope, b"content-type") or "").partition(";")[0].strip().lower()
    if request.method != "POST":
        _require_all_models(caller)
        upload = _Upload()
        upload.read.set()
        return upload
    if kind == FORM:
        _require_all_models(caller)
        length = header(request.scope, b"content-length")
        upload = _Upload(None, int(length) if length and length.isdigit() else None, tokens=FORM_TOKENS, costs=True)
        upload.pieces = _received(request, upload.read)
        return upload
    body = await read_body(request)
    if body and JSON_TYPE.fullmatch(kind):
        parsed = parse_json(body)
        if not isinstance(parsed, dict):
            raise InvalidType("Request body must be a JSON object")
        refuse_duplicates(body, parsed)
        model = parsed.get("model")
        if model is None:
            _require_all_models(caller)
        elif not isinstance(model, str):
            raise InvalidType("Model must be a string", field="model")
        else:
            allow_model(caller, model, is_local)
        upload = _Upload(_one(body), len(body), model or "", len(body) // BYTES_PER_TOKEN, costs=True)
    else:
        _require_all_models(caller)
        if body:
            raise UnsupportedMediaType(f"Content-Type must be application/json or {FORM}")
        upload = _Upload(_one(b""), 0)
    upload.read.set()
    return upload


def _require_all_models(caller: Caller) -> None:
    if "*" not in caller.models:
        raise Forbidden(
            "This key is for some models only, and which one this call would use is not told by a JSON body"
        )


async def _one(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _received(request: Request, read: asyncio.Event) -> AsyncIterator[bytes]:
    """The request's body as it comes. Raises ClientDisconnect, and PayloadTooLarge where it is too long."""
    try:
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return
    finally:
        read.set()


def _price(provider: Provider, model: str) -> Price | None:
    prices = provider.config.prices
    return prices.get(model) or prices.get(ANY_MODEL)


@dataclass(slots=True)
class _Passing:
    """One call on its way; `frames` runs once."""

    provider: Provider
    meter: Meter
    record: CallRecord
    call: PassedCall
    upload: _Upload
    price: Price | None
    status: int = 200
    headers: RawHeaders = field(default_factory=list)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The answer's body as it arrives; an empty one is one empty frame."""
        record, provider = self.record, self.provider
        async with self.meter.call(record) as metered, self._slot():
            record.attempt(provider.name, provider.boundary)
            record.provider, record.model = provider.name, self.upload.model
            passage = provider.passage
            assert passage is not None  # noqa: S101 - the router gives no other
            try:
                reply = await passage.open(self.call)
            except ClientDisconnect:
                record.outcome = DISCONNECTED
                metered.finish()
                raise
            finally:
                self.upload.read.set()
            self.status, self.headers = reply.status, raw(reply.headers)
            metered.first_token()
            tail, has_content = b"", False
            try:
                async for chunk in reply.chunks():
                    tail, has_content = (tail + chunk)[-TAIL_BYTES:], True
                    yield chunk
                self._settle(tail)
            finally:
                reply.close()
        if not has_content:
            yield b""

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """A place among the provider's calls; the wait for it is noted."""
        waiting_since = time.perf_counter()
        async with self.provider.admission.slot():
            self.record.queued += time.perf_counter() - waiting_since
            yield

    def _settle(self, tail: bytes) -> None:
        """Note the usage that the answer tells; where it tells none, the estimate stands for it."""
        if not self.upload.costs:
            return
        usage = usage_in(tail) if "json" in dict(self.headers).get(b"content-type", b"").decode("latin-1") else None
        self.record.usage = priced(usage or Usage(self.upload.tokens, 0, estimated=True), self.price)


class PassedResponse(StreamedResponse):
    """The answer of an upstream, with its status and type; one that breaks off cuts the connection."""

    def __init__(self, passing: _Passing, shutdown: Shutdown) -> None:
        super().__init__(
            passing.frames(),
            media_type="application/octet-stream",
            ping=b"",
            error_frame=lambda error: b"",
            headers=self._answered,
            shutdown=shutdown,
        )
        self.raw_headers = []
        self._passing = passing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def after_the_body() -> dict[str, object]:
            # what watches for a client that leaves must not read its body
            await self._passing.upload.read.wait()
            return dict(await receive())

        await super().__call__(scope, after_the_body, send)

    def _answered(self) -> RawHeaders:
        self.status_code = self._passing.status
        return [*self._passing.headers, *receipt_headers(self._passing.record)]


# what each part is for, and the methods it knows
PASSAGES: dict[Family, tuple[str, tuple[str, ...]]] = {
    "audio": ("Speech, transcriptions and translations", ("POST",)),
    "images": ("Images: generations, edits, variations", ("POST",)),
    "moderations": ("Moderations", ("POST",)),
    "files": ("Files that the upstream keeps", ("GET", "POST", "DELETE")),
    "uploads": ("Uploads of large files in parts", ("POST",)),
    "batches": ("Batches", ("GET", "POST")),
    "responses": (
        "Responses that are made and kept here, their input_items, input_tokens and cancel; others, that the upstream "
        "keeps",
        ("GET", "POST", "DELETE"),
    ),
    "conversations": ("Conversations that the upstream keeps", ("GET", "POST", "DELETE")),
    "vector_stores": ("Vector stores of the upstream", ("GET", "POST", "DELETE")),
    "fine_tuning": ("Fine-tuning jobs", ("GET", "POST", "DELETE")),
    "videos": ("Videos", ("GET", "POST", "DELETE")),
    "containers": ("Containers of code", ("GET", "POST", "DELETE")),
    "evals": ("Evaluations", ("GET", "POST", "DELETE")),
    "realtime": ("Secrets and calls of the realtime API; its socket is not passed on", ("POST",)),
}
# these answer at their own name in another way, or not at all
ONLY_BENEATH = frozenset({"responses", "audio", "images", "fine_tuning", "realtime"})


def passage_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    """One route for each part and one for what lies beneath it."""
    raw = limits.route_class("v1", settings.rate_limit_v1, RawRoute)
    router = APIRouter(prefix="/v1", route_class=raw, tags=["v1"])
    for family, (what, methods) in PASSAGES.items():
        words = f"{what}: passed on to the upstream that the routing file names for it, or to the default provider."
        for path in (f"/{family}/{{path:path}}", *(() if family in ONLY_BENEATH else (f"/{family}",))):
            for method in methods:
                router.add_api_route(
                    path,
                    _passing(family, f"/v1{path}"),
                    methods=[method],
                    name=f"{method.lower()}_{family}{'_beneath' if '{' in path else ''}",
                    description=words,
                )
    return router


def _passing(family: Family, route: str) -> Any:
    async def passed(request: Request) -> Response:
        path = request.path_params.get("path", "")
        if family == "responses":
            answer = await answered_here(request, path)
            if isinstance(answer, Response):
                return answer
            request = answer
        return await pass_on(request, family, route, path)

    return passed
