"""Who may use a process that serves a fleet (SERVE_ROLE=model): those who know the fleet's secret, and nobody else.

There are no keys here: a gateway has looked at its caller's key, and says whose call it is. Its word is taken for the
tenant, since only a gateway of this fleet can give it.
"""

import hmac
from urllib.parse import unquote

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.api.src.auth.authenticator import unauthorized
from apps.api.src.auth.caller import SCOPE_KEY, presented
from apps.api.src.exceptions import render
from apps.core.callers import ANONYMOUS, Caller

OPEN_PATHS = frozenset({"/health", "/health/", "/healthz", "/ready"})
FLEET = "fleet"
TENANT, FITS = b"x-fleet-tenant", b"x-fleet-fits"


class FleetAuthentication:
    """``secret`` empty admits everybody: of a Unix socket, whose file says who may open it."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and get_route_path(scope) not in OPEN_PATHS:
            if not self._is_known(scope):
                await render(unauthorized(), scope["path"])(scope, receive, send)
                return
            scope[SCOPE_KEY] = Caller(_header(scope, TENANT) or ANONYMOUS.tenant)
            scope[FLEET] = True
        await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        if not self._secret:
            return True
        shown = presented(scope)
        return shown is not None and hmac.compare_digest(shown.encode("utf-8", "surrogatepass"), self._secret)


def fits(scope: Scope) -> bool:
    """Whether a gateway of the fleet says that the answer's limit gives way to the context (see WireCall)."""
    return bool(scope.get(FLEET)) and _header(scope, FITS) == "1"


def _header(scope: Scope, name: bytes) -> str:
    return next((unquote(value.decode("latin-1")) for key, value in scope["headers"] if key == name), "")
