"""Authentication: who calls, by the credential of a request; the layer in front of every route; and a fleet's secret.

What a request presents to prove who sends it is `Authorization: Bearer` or `X-API-Key`. The layer says who made a
request, and routes ask what that caller may have.

Nothing here tells an unknown key from one that is revoked, expired, malformed or used from the wrong address: they cost
the same, and the answer is the same.

The layer is in front of every route but for the few open paths that are listed here. What is not listed is closed, so
that a new route is closed until someone opens it. Unknown paths are closed too: a client without a key does not learn
which exist.

A process that serves a fleet (SERVE_ROLE=model) admits those who know the fleet's secret. It has no keys: a gateway has
looked at its caller's key, and says whose call it is. Its word is taken for the tenant, since only a gateway of this
fleet can give it.
"""

import hmac
import logging
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from limits import parse
from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.api.src.exceptions import render
from apps.api.src.limits.counts import WindowCounts
from apps.core.callers import ANONYMOUS, LOCAL, Caller
from apps.core.errors import AppError, Forbidden, RateLimitExceeded, Unauthorized, forget_tracebacks
from apps.operations.key_store import KeyRing, StoredKey
from apps.operations.key_terms import looks_like_key

if TYPE_CHECKING:
    from apps.operations.bearer_tokens import BearerTokens

SCOPE_KEY = "caller"
SHOWN_CHARACTERS = 100


def caller_of(request: Request) -> Caller:
    """ANONYMOUS while keys are off."""
    return caller_in(request.scope)


def caller_in(scope: Mapping[str, Any]) -> Caller:
    caller: Caller = scope.get(SCOPE_KEY, ANONYMOUS)
    return caller


def may_use(caller: Caller, model: str, is_local: Callable[[str], bool]) -> bool:
    """``is_local`` is asked only where it matters."""
    return caller.may_use(model) or (LOCAL in caller.models and is_local(model))


def allow_model(
    caller: Caller,
    model: str,
    is_local: Callable[[str], bool] = lambda _: False,
    words: str = "This key may not use that model",
) -> None:
    """Raise Forbidden where the caller's key is not for this model, whether or not there is such a model.

    ``words`` are for a model that the caller has not named himself.
    """
    if not may_use(caller, model, is_local):
        raise Forbidden(words, field="model", details={"model": model[:SHOWN_CHARACTERS]})


def allow_named(caller: Caller, named: str | None, default: str, is_local: Callable[[str], bool]) -> None:
    """`allow_model` where ``default`` answers a call that names none."""
    if named is not None:
        allow_model(caller, named, is_local)
        return
    words = f"No model is named, so {default} would answer, and this key is not for it: name another one in `model`"
    allow_model(caller, default, is_local, words)


def allow_local(caller: Caller, name: str) -> None:
    """`allow_model` where only the local model answers, whatever the call names."""
    words = f"Only the local model, {name}, answers here, and this key is not for it: ask /generate or /v1 for others"
    allow_model(caller, name, lambda _: True, words)


def allow_addressed(caller: Caller, model: str) -> None:
    """`allow_model` for what the path names: a collection or an agent, by its name among the models."""
    allow_model(caller, model, words=f"This key is not for {model[:SHOWN_CHARACTERS]}: its models do not include it")


BEARER = b"bearer "
LONGEST = 16_384


def presented(scope: Scope) -> str | None:
    """The credential; None where there is none. Where there are several, an empty text, which no key matches."""
    found: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == BEARER:
            value = value[7:]
        elif name != b"x-api-key":
            continue
        value = value.strip()
        if found is not None and found != value:
            return ""
        found = value
    if found is None:
        return None
    return found.decode("latin-1") if len(found) <= LONGEST else ""


ADMIN = "/admin"
# the least of a network that one IPv6 caller has to himself
IPV6_BITS = 64
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="genai-project"'}

log = logging.getLogger(__name__)


class RefusedKeys:
    """Counts the keys that were refused an address, in this process. ``rate`` None counts nothing."""

    def __init__(self, rate: str | None) -> None:
        self._limit = parse(rate) if rate else None
        self._windows = WindowCounts()

    def check(self, scope: Scope) -> None:
        """Raise RateLimitExceeded where there were too many."""
        limit = self._limit
        if limit is None:
            return
        place = _place(scope)
        if self._windows.get(place) >= limit.amount:
            raise RateLimitExceeded(
                f"Rate limit exceeded: {limit}",
                details={"limit": str(limit), "of": "refused keys"},
                retry_after=self._windows.get_expiry(place) - time.time(),
            )

    def count(self, scope: Scope) -> None:
        if self._limit is not None:
            self._windows.hit(_place(scope), self._limit.get_expiry())


class Authenticator:
    """``open_while_empty``: no key is needed as long as none was ever made."""

    def __init__(
        self, ring: KeyRing, tokens: "BearerTokens | None", refused: RefusedKeys, *, open_while_empty: bool
    ) -> None:
        self._ring = ring
        self._tokens = tokens
        self._refused = refused
        self._open_while_empty = open_while_empty

    def known(self, scope: Scope) -> Caller | None:
        """The caller where no store has to be asked, as for most requests."""
        credential = presented(scope)
        key = self._ring.known(credential) if credential else None
        return key.caller if key is not None and _is_at_home(key, scope) else None

    async def caller(self, scope: Scope) -> Caller:
        """Raises Unauthorized, RateLimitExceeded, or an error of whom had to be asked."""
        credential = presented(scope)
        if self._open_while_empty and await self._none_exists(credential):
            return ANONYMOUS
        if credential is None:
            raise unauthorized()
        self._refused.check(scope)
        caller = await self._judge(credential, scope)
        if caller is None:
            self._refused.count(scope)
            raise unauthorized()
        return caller

    async def _none_exists(self, credential: str | None) -> bool:
        """Whether no key was ever made; where one is shown that may be the first of all, as of now."""
        if await self._ring.exist():
            return False
        return credential is None or not looks_like_key(credential) or await self._ring.find(credential) is None

    async def _judge(self, credential: str, scope: Scope) -> Caller | None:
        if self._tokens is not None and self._tokens.looks_like_one(credential):
            return await self._tokens.caller(credential)
        key = await self._ring.find(credential)
        if key is None:
            return None
        if not _is_at_home(key, scope):
            log.warning("Key %s was used from an address that it is not for", key.id)
            return None
        return key.caller


def allow_path(caller: Caller, path: str) -> None:
    """Raises Forbidden, whether or not there is such a path."""
    admin = path == ADMIN or path.startswith(f"{ADMIN}/")
    if not caller.may_call(path) or (admin and not caller.admin):
        raise Forbidden("This key may not do that")


def unauthorized() -> AppError:
    return Unauthorized("A valid API key is required", headers=CHALLENGE)


def _is_at_home(key: StoredKey, scope: Scope) -> bool:
    if not key.networks:
        return True
    try:
        address = ip_address((scope.get("client") or ("",))[0])
    except ValueError:  # a Unix socket has no address
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in key.networks)


def _place(scope: Scope) -> str:
    host = str((scope.get("client") or ("",))[0])
    if ":" not in host:
        return host
    try:
        return str(int(IPv6Address(host.partition("%")[0])) >> (128 - IPV6_BITS))
    except ValueError:
        return host


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


FLEET_OPEN_PATHS = frozenset({"/health", "/health/", "/healthz", "/ready"})
FLEET = "fleet"
TENANT, FITS = b"x-fleet-tenant", b"x-fleet-fits"


class FleetAuthentication:
    """``secret`` empty admits everybody: of a Unix socket, whose file says who may open it."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and get_route_path(scope) not in FLEET_OPEN_PATHS:
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
