"""Anthropic's Messages API: messages, and how many tokens one would be."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from apps.api.src.anthropic.counting import count_tokens
from apps.api.src.http.raw_route import RawRoute
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.v1.relay import read_call, relay
from apps.api.src.wiring.services import Services
from apps.core.settings import Settings

MESSAGES = "/messages"
COUNT = "/messages/count_tokens"


def anthropic_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    """What clients of Anthropic ask, from any provider or the local model."""
    raw = limits.route_class("v1", settings.rate_limit_v1, RawRoute)
    router = APIRouter(prefix="/v1", route_class=raw, tags=["anthropic"])

    @router.post(MESSAGES)
    async def messages(request: Request) -> Response:
        """Anthropic's messages; made from chat completions where a target has none of its own."""
        return await relay(request, MESSAGES)

    @router.post(COUNT)
    async def messages_count_tokens(request: Request) -> Response:
        """The tokens of a message's prompt: exact at the local model and at Anthropic, else by four bytes each."""
        call = await read_call(request, COUNT, services.gateway.router.is_local)
        counted = await count_tokens(services, call)
        headers = {"X-Estimated": "true"} if counted.estimated else {}
        return JSONResponse({"input_tokens": counted.tokens}, headers=headers)

    return router
