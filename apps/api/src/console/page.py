"""The page at `/` and its files: static, served from the package, without a build step."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from apps.api.src.http.openapi import error_responses
from apps.core.errors import NotFound
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
