"""The console: the page at `/` and its files, and what it asks for, `/v1/me` and `/v1/summary`.

The page is static, served from the package, without a build step. The two routes say what a caller may do, and how the
service is.
"""

import base64
import hashlib
import re
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from apps.api.src.auth.authentication import caller_of
from apps.api.src.http.openapi import error_responses
from apps.api.src.wiring.services import Services
from apps.core.callers import ANONYMOUS
from apps.core.errors import NotFound, StoreUnavailable
from apps.core.fields import Schema
from apps.core.process import NAME, VERSION

HERE = Path(__file__).parent
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".json": "application/json"}
FILES = {
    f"{path.parent.name}/{path.name}": path
    for folder in ("static", "pages", "vendor")
    for path in (HERE / folder).iterdir()
    if path.suffix in TYPES
}
INLINE = re.compile(r"<script type=\"importmap\">(.*?)</script>", re.DOTALL)


def console_router(*, on: bool) -> APIRouter:
    """The routes of the console; with ``on`` False, `/` answers in JSON alone."""
    router = APIRouter(include_in_schema=False)
    html = (HERE / "static" / "index.html").read_text() if on else ""
    policy = content_security_policy(html) if on else ""

    # Ollama's command asks for the head before anything else
    @router.head("/", include_in_schema=False)
    @router.get("/", response_class=Response)
    async def root(request: Request) -> Response:
        if on and "text/html" in request.headers.get("accept", ""):
            headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
            return HTMLResponse(html, headers={**headers, "X-Content-Type-Options": "nosniff"})
        links = {"docs": "/docs", "openapi": "/openapi.json", "ready": "/ready"}
        return JSONResponse({"name": NAME, "version": VERSION, **links}, headers={"Vary": "Accept"})

    @router.get("/favicon.ico", response_class=Response)
    async def favicon() -> Response:
        return _file(HERE / "static" / "favicon.svg")

    if on:

        @router.get("/console/{folder}/{name}", response_class=Response, responses=error_responses(NotFound))
        async def file(folder: str, name: str) -> Response:
            """A file of the console. Raises NotFound for every other name."""
            path = FILES.get(f"{folder}/{name}")
            if path is None:
                raise NotFound("There is no such file of the console")
            return _file(path)

    return router


def content_security_policy(html: str) -> str:
    """The policy of the page: own scripts and the one inline import map, no remote image, no frame."""
    found = INLINE.search(html)
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode() if found else ""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'sha256-{digest}'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types dompurify",
        )
    )


def _file(path: Path) -> Response:
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)


class BudgetLeft(Schema):
    """US dollars of the current period."""

    limit_usd: float
    period: str
    spent_usd: float
    reserved_usd: float = Field(description="Held by calls under way")
    left_usd: float


class Me(Schema):
    """The caller, as the service knows it."""

    authenticated: bool = Field(description="false while no key is asked for")
    tenant: str
    key_id: str | None
    name: str
    admin: bool
    models: list[str] = Field(description="Patterns of model names")
    routes: list[str] = Field(description="Patterns of paths")
    rpm: int | None
    tpm: int | None
    budget: BudgetLeft | None


class Summary(Schema):
    """Numbers of this process: counters since its start, gauges as of now, histograms as sum and count."""

    at: float = Field(description="Unix time")
    version: str
    values: dict[str, list[dict[str, Any]]] = Field(description="By metric: its labels and its value")


def account_router(services: Services) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/v1/me", responses=error_responses(StoreUnavailable))
    async def me(request: Request) -> Me:
        """Show what the caller's key may do, and what is left of its budget."""
        caller = caller_of(request)
        budget = None
        accounts = services.accounts
        if caller.budget is not None and caller.key_id is not None and accounts is not None and accounts.budgets:
            spent, reserved = await accounts.budgets.standing(caller)
            left = max(0.0, caller.budget.usd - spent - reserved)
            budget = BudgetLeft(
                limit_usd=caller.budget.usd,
                period=caller.budget.period,
                spent_usd=spent,
                reserved_usd=reserved,
                left_usd=left,
            )
        return Me(
            authenticated=caller is not ANONYMOUS,
            tenant=caller.tenant,
            key_id=caller.key_id,
            name=caller.name,
            admin=caller.admin,
            models=list(caller.models),
            routes=list(caller.routes),
            rpm=caller.requests_per_minute,
            tpm=caller.tokens_per_minute,
            budget=budget,
        )

    @router.get("/v1/summary")
    async def summary() -> Summary:
        """Show the service's numbers as JSON: the metrics of Prometheus without their buckets."""
        return Summary(at=time.time(), version=VERSION, values=services.metrics.summary())

    return router
