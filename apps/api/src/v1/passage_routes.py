"""The parts of OpenAI's API that are passed on: audio, images, moderations, files, batches, stored responses."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from apps.api.src.http.raw_route import RawRoute
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.v1.passage import pass_on
from apps.api.src.wiring.services import Services
from apps.core.settings import Settings
from apps.gateway.routing.config import Family

# what each part is for, and the methods it knows
PASSAGES: dict[Family, tuple[str, tuple[str, ...]]] = {
    "audio": ("Speech, transcriptions and translations", ("POST",)),
    "images": ("Images: generations, edits, variations", ("POST",)),
    "moderations": ("Moderations", ("POST",)),
    "files": ("Files that the upstream keeps", ("GET", "POST", "DELETE")),
    "uploads": ("Uploads of large files in parts", ("POST",)),
    "batches": ("Batches", ("GET", "POST")),
    "responses": ("Responses that the upstream keeps", ("GET", "POST", "DELETE")),
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
        return await pass_on(request, family, route, request.path_params.get("path", ""))

    return passed
