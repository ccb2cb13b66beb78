"""OpenAI's API: chat completions, the list of models, and what the router would do."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from apps.api.src.limits import RateLimits
from apps.api.src.raw_route import RawRoute
from apps.api.src.v1.relay import relay
from apps.api.src.wiring import Services
from apps.core.settings import Settings
from apps.models.gateway.router import Needs


def v1_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    """What is relayed as it came."""
    raw = limits.route_class("v1", settings.rate_limit_v1, RawRoute)
    router = APIRouter(prefix="/v1", route_class=raw, tags=["v1"])

    @router.post("/chat/completions")
    async def chat_completions(request: Request) -> Response:
        """OpenAI's chat completions, from any provider or the local model."""
        return await relay(request, "/chat/completions")

    return router


def v1_lookup_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    """What can be asked about the gateway without spending anything."""
    router = APIRouter(prefix="/v1", route_class=limits.route_class("v1", settings.rate_limit_v1), tags=["v1"])

    @router.get("/route")
    async def route(
        model: Annotated[str, Query(min_length=1, max_length=200)],
        tools: bool = False,
        images: bool = False,
        tokens: Annotated[int, Query(ge=0)] = 0,
    ) -> Response:
        """Which targets would be asked, in which order, and why; nothing is spent."""
        return JSONResponse(services.gateway.router.explain(model, Needs(tools, images, tokens)))

    return router
