"""Whether the process is alive, whether its models can answer, what they can take now, and what Prometheus reads.

Not limited: a scraper that is turned away is blind just when it matters, and a fleet asks for the capacity several
times a second before it sends a call.
"""

from collections.abc import Iterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, RedirectResponse, Response

from apps.api.src.auth.authentication import caller_of, may_use
from apps.api.src.exceptions import render
from apps.api.src.http.openapi import error_responses
from apps.api.src.http.shutdown import Shutdown
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.wiring.services import Services
from apps.core.errors import ModelUnavailable, RateLimitExceeded
from apps.core.fields import Schema
from apps.core.ports import State
from apps.core.settings import Settings
from apps.models.capacity import Capacity, KnowsControlTexts, Measured, ModelCapacity


class Health(Schema):
    status: Literal["ok"] = "ok"


class ModelReadiness(Schema):
    """``details`` is what an operator wants to know of a model beyond its state."""

    route: str
    name: str
    status: State
    reason: str
    details: dict[str, Any] = Field(default_factory=dict)


class Ready(Schema):
    status: Literal["ready", "not_ready"]
    models: list[ModelReadiness]


def health_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("health", settings.rate_limit_health), tags=["operations"])

    @router.head("/health", include_in_schema=False)
    @router.head("/healthz", include_in_schema=False)
    @router.get("/health/", include_in_schema=False)
    @router.get("/health", responses=error_responses(RateLimitExceeded))
    @router.get("/healthz", responses=error_responses(RateLimitExceeded))
    async def health() -> Health:
        """The process is alive, whatever the models do."""
        return Health()

    return router


def ready_router(services: Services) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/docs/", include_in_schema=False)
    @router.get("/redoc/", include_in_schema=False)
    async def page(request: Request) -> Response:
        """Lead to the page without the slash."""
        return RedirectResponse(request.url.path.rstrip("/"))

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready", response_model=Ready, responses=error_responses(ModelUnavailable))
    async def ready(request: Request) -> Response:
        """200 where a model is configured and none is loading or failed; else 503, with the same list beside the error.

        `unknown` is an upstream that no call has reached yet.
        """
        shutdown: Shutdown = request.app.state.shutdown
        models = [
            ModelReadiness(route=route, name=r.name, status=r.state, reason=r.reason, details=dict(r.details))
            for route, r in (
                ("/generate", services.cloud.readiness()),
                ("/local/generate", services.local.readiness()),
            )
        ]
        configured = [model.status for model in models if model.status != "not_configured"]
        if shutdown.draining:
            error = ModelUnavailable("The server is shutting down", retry_after=5)
            return render(error, "/ready", beside=Ready(status="not_ready", models=models).model_dump())
        if configured and all(status in ("ready", "unknown") for status in configured):
            return JSONResponse(Ready(status="ready", models=models).model_dump())
        waits = [r.retry_after for r in (services.cloud.readiness(), services.local.readiness()) if r.retry_after]
        error = ModelUnavailable(_what_is_missing(models), retry_after=min(waits, default=5))
        return render(error, "/ready", beside=Ready(status="not_ready", models=models).model_dump())

    return router


def _what_is_missing(models: list[ModelReadiness]) -> str:
    waiting = [model for model in models if model.status in ("loading", "failed")] or models
    return "; ".join(f"{model.name}: {model.status} ({model.reason})" for model in waiting)


class MetricsText(Response):
    """Prometheus' text format, or OpenMetrics where Accept asks for it."""

    media_type = "text/plain"


def metrics_router(services: Services) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/metrics", response_class=MetricsText)
    async def metrics(request: Request) -> Response:
        """Counters, histograms and gauges of this process, for Prometheus. Where keys are on it needs one."""
        content_type, text = services.metrics.render(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    return router


def capacity_router(services: Services) -> APIRouter:
    router = APIRouter(tags=["operations"])

    # written here: a fleet's gateways ask several times a second, and FastAPI would check the answer once more
    @router.get("/v1/capacity", response_model=Capacity)
    async def capacity(request: Request, control_texts: bool = False) -> Response:
        """The models of this machine that the caller may use: slots, queue, speed, and the wait to expect.

        `draining` is true from SIGTERM on: calls under way are answered, and new ones should go elsewhere.
        """
        caller, is_local = caller_of(request), services.gateway.router.is_local
        shutdown: Shutdown = request.app.state.shutdown
        models = [
            model
            for model in _models(services)
            if may_use(caller, model.id, (lambda _: True) if model.kind == "chat" else is_local)
        ]
        if control_texts and isinstance(services.local, KnowsControlTexts):
            texts = services.local.control_texts()
            models = [
                model.model_copy(update={"control_texts": texts}) if model.kind == "chat" else model for model in models
            ]
        answer = Capacity.model_construct(draining=shutdown.draining, models=models)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")

    return router


def _models(services: Services) -> Iterator[ModelCapacity]:
    """Those of this process, or of the one that it has for them; an upstream's capacity is the upstream's affair."""
    if isinstance(services.local, Measured):
        yield services.local.capacity()
    for provider in services.gateway.router.providers.values():
        if provider.config.kind == "embedder":
            ready, queue = provider.chat.readiness(), provider.admission
            longest = ready.details.get("longest_input")
            yield ModelCapacity.model_construct(
                id=ready.name,
                kind="embedding",
                status=ready.state,
                reason=ready.reason,
                slots=queue.slots,
                running=queue.running,
                waiting=queue.waiting,
                queue_size=queue.queue_size,
                context=longest if isinstance(longest, int) else None,
                predicted_wait=round(queue.predicted_wait(), 3),
                retry_after=ready.retry_after,
            )
    if services.reranker is not None and services.reranker_is_local:
        ready = services.reranker.readiness()
        yield ModelCapacity.model_construct(
            id=ready.name, kind="rerank", status=ready.state, reason=ready.reason, retry_after=ready.retry_after
        )
