"""OpenAI's API: completions of three kinds, embeddings, the list of models, and what the router would do."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from apps.agents.config import AGENT_PREFIX
from apps.api.src.auth.authentication import allow_model, caller_of, may_use
from apps.api.src.http.request import RawRoute
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.rag.requests import collection_names
from apps.api.src.v1.models import (
    CHAT_TOKENS,
    DETOKENIZE,
    TOKENIZE,
    Model,
    ModelDirectory,
    ModelList,
    chat_tokens_of,
    text_of,
    tokens_of,
)
from apps.api.src.v1.relay import read_call, relay
from apps.api.src.wiring.services import Services
from apps.core.callers import Caller
from apps.core.settings import Settings
from apps.gateway.routing.router import Needs


def v1_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    """What is relayed as it came."""
    raw = limits.route_class("v1", settings.rate_limit_v1, RawRoute)
    router = APIRouter(prefix="/v1", route_class=raw, tags=["v1"])

    @router.post("/chat/completions")
    async def chat_completions(request: Request) -> Response:
        """OpenAI's chat completions, from any provider or the local model."""
        return await relay(request, "/chat/completions")

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        """OpenAI's legacy completions; the local model writes on from the bare prompt."""
        return await relay(request, "/completions")

    @router.post("/responses")
    async def responses(request: Request) -> Response:
        """OpenAI's Responses API; made from chat completions and kept for a while where a target has none."""
        return await relay(request, "/responses")

    @router.post("/embeddings")
    async def embeddings(request: Request) -> Response:
        """OpenAI's embeddings, from any provider or from all-MiniLM-L6-v2 on this machine's CPU."""
        return await relay(request, "/embeddings")

    @router.post(TOKENIZE)
    async def tokenize(request: Request) -> Response:
        """The local model's tokens of a prompt, or of a chat as its template writes it, and how many they are."""
        router = services.gateway.router
        return JSONResponse(await tokens_of(router, await read_call(request, TOKENIZE, router.is_local)))

    @router.post(CHAT_TOKENS)
    async def chat_input_tokens(request: Request) -> Response:
        """How many tokens the prompt of a chat has at the local model; the body is that of chat completions."""
        router = services.gateway.router
        return JSONResponse(await chat_tokens_of(router, await read_call(request, CHAT_TOKENS, router.is_local)))

    @router.post(DETOKENIZE)
    async def detokenize(request: Request) -> Response:
        """The text of tokens of the local model."""
        router = services.gateway.router
        return JSONResponse(await text_of(router, await read_call(request, DETOKENIZE, router.is_local)))

    return router


def v1_lookup_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    """What can be asked about the gateway without spending anything."""
    router = APIRouter(prefix="/v1", route_class=limits.route_class("v1", settings.rate_limit_v1), tags=["v1"])
    directory = ModelDirectory(settings.default_model)

    @router.get("/models")
    async def models(request: Request) -> ModelList:
        """The names that the caller's calls may use, and whether each can answer now."""
        caller, router = caller_of(request), services.gateway.router
        listed = directory.all(router, await more_names(services, caller)).data
        return ModelList(data=[model for model in listed if may_use(caller, model.id, router.is_local)])

    @router.get("/models/{id:path}")
    async def model(request: Request, id: str) -> Model:
        """One of the list. A default provider may take other names too; those are not listed."""
        caller, router = caller_of(request), services.gateway.router
        allow_model(caller, id, router.is_local)
        return directory.one(router, id, await more_names(services, caller))

    @router.get("/route")
    async def route(
        request: Request,
        model: Annotated[str, Query(min_length=1, max_length=200)],
        tools: bool = False,
        images: bool = False,
        tokens: Annotated[int, Query(ge=0)] = 0,
    ) -> Response:
        """Which targets would be asked, in which order, and why; nothing is spent."""
        allow_model(caller_of(request), model, services.gateway.router.is_local)
        return JSONResponse(services.gateway.router.explain(model, Needs(tools, images, tokens)))

    return router


async def more_names(services: Services, caller: Caller) -> list[str]:
    """The caller's collections and agents, by their names among the models."""
    router = services.gateway.router
    names = await collection_names(services, router, caller)
    if services.agents is not None and router.takes(AGENT_PREFIX):
        agents = (AGENT_PREFIX + name for name in services.agents.names())
        names += [name for name in agents if caller.may_use(name)]
    return names
