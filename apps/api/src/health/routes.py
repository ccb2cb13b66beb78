"""Whether the process is alive, and whether its models can answer.

What Prometheus reads. Not limited: a scraper that is turned away is blind just when it matters.
"""

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, RedirectResponse, Response

from apps.api.src.exceptions import render
from apps.api.src.http.openapi import error_responses
from apps.api.src.http.shutdown import Shutdown
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.wiring.services import Services
from apps.core.errors import ModelUnavailable, RateLimitExceeded
from apps.core.fields import Schema
from apps.core.ports import State
from apps.core.settings import Settings


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
        told = [r.retry_after for r in (services.cloud.readiness(), services.local.readiness()) if r.retry_after]
        error = ModelUnavailable(_what_is_missing(models), retry_after=min(told, default=5))
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
