"""The local model, on this machine's CPU."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from apps.api.src.auth.authentication import allow_local, caller_of
from apps.api.src.generate import GenerateAnswer, GenerateBody, answer, local_body
from apps.api.src.http.openapi import CACHE_PARAMETERS, generate_responses
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.routes.openai_routes import Stream
from apps.api.src.wiring.services import Services
from apps.core.errors import InternalError, ModelUnavailable, NotFound, Overloaded, RateLimitExceeded
from apps.core.ports import ChatModel
from apps.core.settings import Settings


def local_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("local", settings.rate_limit_local), tags=["local"])
    model = services.generate_locally

    async def generate_locally(request: Request, body: GenerateBody, stream: Stream = False) -> Response:
        """Ask the local model: no key, no network."""
        caller = caller_of(request)
        allow_local(caller, services.local.readiness().name)
        _check_name(services.local, body.model)
        return await answer(request, model, body.to_chat(caller), stream=stream)

    generate_locally.__annotations__["body"] = local_body(settings)
    router.add_api_route(
        "/local/generate",
        generate_locally,
        methods=["POST"],
        summary="Ask the local model",
        openapi_extra={"parameters": CACHE_PARAMETERS},
        response_model=GenerateAnswer,
        responses=generate_responses(RateLimitExceeded, NotFound, InternalError, ModelUnavailable, Overloaded),
    )
    return router


def _check_name(model: ChatModel, name: str | None) -> None:
    """Raise NotFound for any name but the model's own, once that is known for sure."""
    readiness = model.readiness()
    if name is not None and readiness.state == "ready" and name != readiness.name:
        raise NotFound(f"The local model is {readiness.name}", field="model", details={"available": [readiness.name]})
