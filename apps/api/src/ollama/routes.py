"""Ollama's API: chats, texts, embeddings, and the models that are listed, shown and loaded."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from apps.api.src.auth.authentication import allow_model, caller_of, may_use
from apps.api.src.http.request import RawRoute, parse_json, read_body
from apps.api.src.http.streaming import StreamedResponse
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.ollama.answers import Lines, json_lines, ollama_error, parsed, written
from apps.api.src.ollama.request import (
    chat_body,
    embeddings_body,
    generate_body,
    is_load,
    model_of,
    raw_body,
)
from apps.api.src.v1.models import ModelDirectory
from apps.api.src.v1.relay import call_of, respond
from apps.api.src.v1.routes import more_names
from apps.api.src.wiring.services import Services
from apps.core.errors import InvalidType, NotFound, quoted
from apps.core.settings import Settings
from apps.gateway.routing.router import Needs, Router
from apps.gateway.routing.targets import Target

Card = dict[str, Any]
# nothing is unloaded here: as far away as a year
KEPT = timedelta(days=365)


class ModelCards:
    """Describes the names of a router; the size of an upstream's model is not known, and 0."""

    def __init__(self, default_model: str) -> None:
        self._directory = ModelDirectory(default_model)
        self._began = datetime.now(UTC)

    def listed(self, router: Router, more: Iterable[str], *, running: bool) -> list[Card]:
        """All of them, or those of this process that are loaded."""
        cards = []
        for name, targets in self._directory.names(router, more).items():
            if not running:
                cards.append(self._card(name, targets))
            elif targets[0].provider.config.kind == "local" and targets[0].provider.chat.readiness().state == "ready":
                until = (datetime.now(UTC) + KEPT).isoformat().replace("+00:00", "Z")
                details = targets[0].provider.chat.readiness().details
                context = details.get("context_length") or 0
                cards.append(
                    {**self._card(name, targets), "expires_at": until, "size_vram": 0, "context_length": context}
                )
        return cards

    def shown(self, router: Router, name: str) -> Card:
        """Raises NotFound for an unknown name."""
        targets = self.known(router, name)
        kind, details = targets[0].provider.config.kind, targets[0].provider.chat.readiness().details
        info: Card = {"general.architecture": self._family(targets)}
        context = details.get("context_length") or targets[0].config.context
        if context:
            info[f"{self._family(targets)}.context_length"] = context
        if kind == "embedder":
            capabilities = ["embedding"]
        else:
            capabilities = ["completion", *(["tools"] if targets[0].config.tools and kind != "rag" else [])]
            capabilities += ["vision"] if targets[0].config.images and not targets[0].provider.config.in_process else []
        return {
            "license": "",
            "modelfile": f"FROM {name}",
            "parameters": "",
            "template": "{{ .Prompt }}",
            "details": self._card(name, targets)["details"],
            "model_info": info,
            "capabilities": capabilities,
            "modified_at": self._began.isoformat(),
        }

    @staticmethod
    def known(router: Router, name: str) -> Sequence[Target]:
        """The targets of a name. Raises NotFound, in Ollama's words."""
        own = router.own().get(name)
        if own is not None:
            return [own]
        try:
            return router.candidates(name, Needs())
        except NotFound as error:
            raise NotFound(f'model "{quoted(name)}" not found', field="model", details=error.details) from None

    def _card(self, name: str, targets: Sequence[Target]) -> Card:
        details = targets[0].provider.chat.readiness().details
        family = self._family(targets)
        return {
            "name": name,
            "model": name,
            "modified_at": self._began.isoformat(),
            "size": 0,
            "digest": hashlib.sha256(f"{targets[0].provider.name}/{name}".encode()).hexdigest(),
            "details": {
                "parent_model": "",
                "format": "safetensors" if targets[0].provider.config.in_process else "",
                "family": family,
                "families": [family],
                "parameter_size": "",
                "quantization_level": str(details.get("precision") or ""),
            },
        }

    @staticmethod
    def _family(targets: Sequence[Target]) -> str:
        provider = targets[0].provider
        architecture = provider.chat.readiness().details.get("architecture")
        return str(architecture) if architecture else provider.name


# of Ollama's API that is spoken here; clients ask before they use what is newer
VERSION = "0.13.0"
NDJSON = "application/x-ndjson"
Body = dict[str, Any]


def ollama_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    """What clients of Ollama ask, from any provider or the local model."""
    raw = limits.route_class("v1", settings.rate_limit_v1, RawRoute)
    router = APIRouter(prefix="/api", route_class=raw, tags=["ollama"])

    @router.post("/chat")
    async def chat(request: Request) -> Response:
        """Ollama's chat; streamed as JSON lines unless `stream` is false."""
        body = await _read(request)
        if is_load(body, "messages"):
            return _loaded(services, request, body, chat=True)
        return await _answered(request, services, body, "/chat/completions", chat_body, chat=True)

    @router.post("/generate")
    async def generate(request: Request) -> Response:
        """Ollama's text of one prompt; with `raw` the local model writes on from it."""
        body = await _read(request)
        if is_load(body, "prompt"):
            return _loaded(services, request, body, chat=False)
        if body.get("raw") is True:
            return await _answered(request, services, body, "/completions", raw_body, chat=False)
        return await _answered(request, services, body, "/chat/completions", generate_body, chat=False)

    @router.post("/embed")
    async def embed(request: Request) -> Response:
        """Ollama's embeddings, each text cut to the model's length unless `truncate` is false."""
        return await _embedded(request, services, await _read(request))

    @router.post("/embeddings")
    async def embeddings(request: Request) -> Response:
        """Ollama's older embeddings, of one prompt."""
        body = await _read(request)
        embedding = {**{name: value for name, value in body.items() if name != "prompt"}, "input": body.get("prompt")}
        return await _embedded(request, services, embedding, alone=True)

    @router.post("/show")
    async def show(request: Request) -> Response:
        """What is known of a model."""
        name = model_of(await _read(request))
        allow_model(caller_of(request), name, services.gateway.router.is_local)
        return JSONResponse(cards.shown(services.gateway.router, name))

    @router.head("/tags", include_in_schema=False)
    @router.get("/tags")
    async def tags(request: Request) -> Response:
        """The models that the caller may use."""
        return JSONResponse({"models": await _listed(request, running=False)})

    @router.get("/ps")
    async def ps(request: Request) -> Response:
        """The models of this process that are loaded."""
        return JSONResponse({"models": await _listed(request, running=True)})

    @router.head("/version", include_in_schema=False)
    @router.get("/version")
    async def version(request: Request) -> Response:
        """The version of Ollama's API that is spoken here."""
        return JSONResponse({"version": VERSION})

    async def _listed(request: Request, *, running: bool) -> list[Body]:
        caller, routes = caller_of(request), services.gateway.router
        listed = cards.listed(routes, await more_names(services, caller), running=running)
        return [card for card in listed if may_use(caller, card["name"], routes.is_local)]

    cards = ModelCards(settings.default_model)
    return router


async def _read(request: Request) -> Body:
    """The body, whatever its Content-Type says: Ollama's callers leave it out."""
    body = parse_json(await read_body(request))
    if not isinstance(body, dict):
        raise InvalidType("Request body must be a JSON object")
    return body


def _loaded(services: Services, request: Request, body: Mapping[str, Any], *, chat: bool) -> Response:
    """The answer to a call that asks nothing: the model is there, and stays."""
    name = model_of(body)
    allow_model(caller_of(request), name, services.gateway.router.is_local)
    ModelCards.known(services.gateway.router, name)
    reason = "unload" if body.get("keep_alive") in (0, "0", "0s") else "load"
    return JSONResponse(Lines(name, chat=chat).loaded(reason))


async def _answered(
    request: Request,
    services: Services,
    body: Body,
    path: str,
    translate: Callable[[Mapping[str, Any]], Body],
    *,
    chat: bool,
) -> Response:
    lines = Lines(model_of(body), chat=chat)
    call = call_of(request, path, translate(body), services.gateway.router.is_local, fits=True)
    response = await respond(request, call)
    if isinstance(response, StreamedResponse):
        response.become(NDJSON, lambda frames: json_lines(frames, lines), lambda error: written(ollama_error(error)))
        return response
    return _whole(response, lines.whole(parsed(bytes(response.body))))


async def _embedded(request: Request, services: Services, body: Body, *, alone: bool = False) -> Response:
    lines = Lines(model_of(body), chat=False)
    call = call_of(request, "/embeddings", embeddings_body(body), services.gateway.router.is_local)
    response = await respond(request, call)
    answer = parsed(bytes(response.body))
    vectors = [entry["embedding"] for entry in answer["data"]]
    if alone:
        return _whole(response, {"embedding": vectors[0]})
    return _whole(response, lines.embedded(vectors, answer.get("usage") or {}))


def _whole(response: Response, answer: Mapping[str, Any]) -> Response:
    """The answer in place of OpenAI's, with the headers of its receipt."""
    translated = JSONResponse(answer)
    kept = {b"content-length", b"content-type"}
    translated.raw_headers += [header for header in response.raw_headers if header[0] not in kept]
    return translated
