"""The gateway's own paths, found by a dictionary: what FastAPI's router would do for them costs more than they do.

They stay routes of the app, so that the OpenAPI page, 405 and all else include them.
"""

from collections.abc import Iterable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.api.src.exceptions import render
from apps.api.src.http.json_body import RawRoute
from apps.api.src.http.shutdown import ClientGone
from apps.api.src.observability.tracing import served_by
from apps.core.errors import AppError, forget_tracebacks


class HotPaths:
    """Serves POST to the RawRoutes among ``routes``; hands everything else on."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes if isinstance(route, RawRoute) and "{" not in route.path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hot = scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path")
        route = self._routes.get(scope["path"]) if hot else None
        if route is None or route.methods != {"POST"}:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        served_by(scope, route.path)
        try:
            # both raise before a byte is out: a response that has begun ends by itself
            response = await route.handler(Request(scope, receive))
            await response(scope, receive, send)
        except AppError as error:
            await render(error, scope["path"])(scope, receive, send)
            forget_tracebacks(error)
        except (ClientGone, ClientDisconnect) as gone:
            await Response(status_code=499)(scope, receive, send)
            forget_tracebacks(gone)
