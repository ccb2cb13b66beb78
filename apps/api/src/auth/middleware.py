"""Authentication in front of every route, but for the few open paths that are listed here.

What is not listed is closed, so that a new route is closed until someone opens it. Unknown paths are closed too: a
client without a key does not learn which exist.
"""

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.api.src.auth.authenticator import Authenticator, allow_path
from apps.api.src.auth.caller import SCOPE_KEY
from apps.api.src.exceptions import render
from apps.core.errors import AppError, forget_tracebacks

OPEN_PATHS = frozenset(
    {"/", "/favicon.ico", "/health", "/health/", "/healthz", "/ready", "/docs", "/redoc", "/openapi.json"}
)
OPEN_FOLDERS = ("/console/", "/docs/", "/redoc/", "/static-offline-docs/")


class Authentication:
    """Puts the caller into the scope, where `caller_of` finds it; or ends the request with 401, 403, 429 or 503."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = get_route_path(scope)
        if not is_open(path) and not _is_preflight(scope):
            try:
                caller = self._authenticator.known(scope) or await self._authenticator.caller(scope)
                allow_path(caller, path)
            except AppError as error:
                await _refuse(error, scope, receive, send)
                forget_tracebacks(error)
                return
            scope[SCOPE_KEY] = caller
        await self._app(scope, receive, send)


def is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def _is_preflight(scope: Scope) -> bool:
    """A browser asks before it sends, and without the key: what it learns is in the headers of CORS, and public."""
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return False
    names = {name for name, _ in scope["headers"]}
    return b"origin" in names and b"access-control-request-method" in names


async def _refuse(error: AppError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await render(error, scope["path"])(scope, receive, send)
