"""What Prometheus reads. Not limited: a scraper that is turned away is blind just when it matters."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from apps.api.src.wiring import Services


class MetricsText(Response):
    """Prometheus' text format, or OpenMetrics where Accept asks for it."""

    media_type = "text/plain"


def metrics_router(services: Services) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/metrics", response_class=MetricsText)
    async def metrics(request: Request) -> Response:
        """Counters, histograms and gauges of this process, for Prometheus. Where keys are on it needs one."""
        content_type, text = services.metrics.render(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    return router
