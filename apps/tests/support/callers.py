"""Stands where keys will: a header says who calls. For tests of what callers may do, and of whose data they see."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from apps.api.src.auth.authentication import SCOPE_KEY
from apps.core.callers import Caller


class CallerByHeader:
    """``X-Test-Caller`` names one of ``callers``."""

    def __init__(self, app: ASGIApp, callers: Mapping[str, Caller]) -> None:
        self._app = app
        self._callers = {name.encode(): caller for name, caller in callers.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            named = dict(scope["headers"]).get(b"x-test-caller")
            if named is not None:
                scope[SCOPE_KEY] = self._callers[named]
        await self._app(scope, receive, send)


def as_caller(name: str) -> dict[str, str]:
    return {"X-Test-Caller": name}
