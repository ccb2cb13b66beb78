"""The cloud model: any OpenAI-compatible upstream."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from apps.api.src.auth.authentication import allow_named, caller_of
from apps.api.src.generate import GenerateAnswer, GenerateBody, answer, cloud_body
from apps.api.src.http.openapi import CACHE_PARAMETERS, generate_responses
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.wiring.services import Services
from apps.core.errors import InternalError, ModelUnavailable, RateLimitExceeded, Timeout, UpstreamError
from apps.core.settings import Settings

Stream = Annotated[bool, Query(description="Stream the answer as server-sent events")]


def openai_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("generate", settings.rate_limit_generate), tags=["generate"])
    model = services.generate

    def is_local(name: str) -> bool:
        return settings.gateway_config is not None and services.gateway.router.is_local(name)

    async def generate(request: Request, body: GenerateBody, stream: Stream = False) -> Response:
        """Ask the cloud model; `model` is handed to the upstream as it is."""
        caller = caller_of(request)
        allow_named(caller, body.model, settings.default_model, is_local)
        return await answer(request, model, body.to_chat(caller), stream=stream)

    generate.__annotations__["body"] = cloud_body(settings)
    router.add_api_route(
        "/generate",
        generate,
        methods=["POST"],
        summary="Ask the cloud model",
        openapi_extra={"parameters": CACHE_PARAMETERS},
        response_model=GenerateAnswer,
        responses=generate_responses(RateLimitExceeded, InternalError, UpstreamError, ModelUnavailable, Timeout),
    )
    return router
