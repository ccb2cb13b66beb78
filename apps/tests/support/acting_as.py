"""Requests that act as a caller of the test's choice, as if a key had been found to be his."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from apps.api.src.auth.authentication import SCOPE_KEY
from apps.core.callers import Caller

HEADER = b"x-act-as"


class ActingAs:
    """Middleware: the caller that X-Act-As names; without it nobody is named."""

    def __init__(self, app: ASGIApp, callers: Mapping[str, Caller]) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = dict(scope["headers"]).get(HEADER)
            if name is not None:
                scope[SCOPE_KEY] = self._callers[name.decode()]
        await self._app(scope, receive, send)
