"""Bearer tokens of an OpenID Connect issuer: a signed JWT in, a caller out. The token chooses nothing about itself.

The issuer's public keys are fetched when needed, kept, and fetched again as the issuer rotates them. Where the issuer
cannot be reached, the keys that are known go on being used; a token of one that is not known cannot be judged.

Imports jwt with cryptography, and httpx; it is imported where the settings name an issuer.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import httpx2
import jwt
import jwt.algorithms

from apps.core.callers import Caller
from apps.core.errors import Overloaded
from apps.transport.client import Connections
from apps.transport.httpx_transport import HttpxTransport

FRESH_SECONDS = 300.0
# between two fetches, so that made-up key ids do not become requests to the issuer
PAUSE_SECONDS = 5.0
FETCH_SECONDS = 0.8
WAIT_SECONDS = 0.9
MOST_BYTES = 1_000_000
CONFIGURATION = "/.well-known/openid-configuration"

Jwk = Mapping[str, Any]
log = logging.getLogger(__name__)


class IssuerUnavailable(Overloaded):
    """The issuer's keys are needed and cannot be had now."""

    summary = "The issuer of bearer tokens cannot be reached"

    def __init__(self) -> None:
        super().__init__("The issuer of this token cannot be reached; try again", retry_after=PAUSE_SECONDS)


class JwksError(Exception):
    """The issuer answered something else than keys."""


class Jwks:
    """``url`` empty: where the issuer's configuration says. ``connections`` are closed by their owner."""

    def __init__(
        self,
        issuer: str,
        url: str = "",
        clock: Callable[[], float] = time.monotonic,
        connections: Connections | None = None,
    ) -> None:
        self._issuer = issuer
        self._url = url
        self._clock = clock
        self._own = Connections() if connections is None else None
        self._connections = connections or self._own or Connections()
        self._keys: dict[str, Jwk] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, id: str) -> Jwk | None:
        """The key of this id; None where the issuer has none. Raises IssuerUnavailable where that is not known."""
        if id in self._keys:
            if self._clock() - self._fetched_at > FRESH_SECONDS:
                self._fetch()  # meanwhile the known one serves
            return self._keys[id]
        if fetching := self._fetch():
            # not cancelled with the caller: others wait for the same
            await asyncio.wait({fetching}, timeout=WAIT_SECONDS)
        if id not in self._keys and (self._failed or self._fetched_at < 0 or self._is_fetching):
            raise IssuerUnavailable
        return self._keys.get(id)

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})
        if self._own is not None:
            await self._own.aclose()

    @property
    def _is_fetching(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    def _fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; None where the last was a moment ago."""
        if not self._is_fetching:
            if self._clock() - self._tried_at < PAUSE_SECONDS:
                return None
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._refresh())
        return self._fetching

    async def _refresh(self) -> None:
        transport = HttpxTransport(self._connections)
        try:
            async with (
                asyncio.timeout(FETCH_SECONDS),
                httpx2.AsyncClient(transport=transport, timeout=FETCH_SECONDS) as client,
            ):
                url = self._url or await self._configured_url(client)
                self._keys = _signing_keys(await _get(client, url))
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, JwksError) as error:
            self._failed = True
            log.warning("The keys of OIDC_ISSUER could not be fetched: %s", type(error).__name__)
        else:
            self._failed = False
            self._fetched_at = self._clock()

    async def _configured_url(self, client: Any) -> str:
        configuration = await _get(client, self._issuer.rstrip("/") + CONFIGURATION)
        url = configuration.get("jwks_uri")
        if configuration.get("issuer") != self._issuer or not isinstance(url, str):
            raise JwksError("not the configuration of this issuer")
        if self._issuer.startswith("https://") and not url.startswith("https://"):
            raise JwksError("keys without TLS")
        return url


async def _get(client: Any, url: str) -> dict[str, Any]:
    answer = await client.get(url)
    if answer.status_code != 200 or len(answer.content) > MOST_BYTES:
        raise JwksError(f"answered {answer.status_code}")
    try:
        body = answer.json()
    except ValueError:
        raise JwksError("not JSON") from None
    if not isinstance(body, dict):
        raise JwksError("not an object")
    return body


def _signing_keys(jwks: Mapping[str, Any]) -> dict[str, Jwk]:
    keys = jwks.get("keys")
    if not isinstance(keys, list):
        raise JwksError("no keys")
    # a shared secret has no business here
    return {
        str(key["kid"]): key
        for key in keys
        if isinstance(key, dict) and "kid" in key and key.get("kty") in ("RSA", "EC", "OKP")
        if key.get("use", "sig") == "sig"
    }


FAMILIES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
LEEWAY_SECONDS = 30
LONGEST = 16_384
TENANT = re.compile(r"[\w.@:-]{1,100}")
SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")


class BearerTokens:
    """Knows one issuer. What a token may do is in its scopes: `models:PATTERN`, `routes:PATTERN` and `admin`.

    A token without any `models:` scope may use every model, one without `routes:` may call every route.
    """

    def __init__(
        self, jwks: Jwks, issuer: str, audience: str, algorithms: Sequence[str], tenant_claim: str, scope_claim: str
    ) -> None:
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._algorithms = frozenset(algorithms)
        self._tenant_claim = tenant_claim
        self._scope_claim = scope_claim

    @staticmethod
    def looks_like_one(credential: str) -> bool:
        return len(credential) <= LONGEST and SHAPE.fullmatch(credential) is not None

    async def caller(self, token: str) -> Caller | None:
        """None for a token that is not good, whatever the reason. Raises IssuerUnavailable where its key is unknown."""
        try:
            header = jwt.get_unverified_header(token)
            algorithm, id = header.get("alg"), header.get("kid")
            if not (isinstance(id, str) and isinstance(algorithm, str) and algorithm in self._algorithms):
                return None
            key = await self._jwks.key(id)
            claims = None if key is None else self._verified(token, key, algorithm)
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        return None if claims is None else self._caller_of(claims)

    async def aclose(self) -> None:
        await self._jwks.aclose()

    def _verified(self, token: str, key: Jwk, algorithm: str) -> Mapping[str, Any] | None:
        if FAMILIES[algorithm[:2]] != key["kty"] or key.get("alg", algorithm) != algorithm:
            return None
        claims: Mapping[str, Any] = jwt.decode(
            token,
            jwt.PyJWK(dict(key), algorithm),
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
        )
        return claims

    def _caller_of(self, claims: Mapping[str, Any]) -> Caller | None:
        subject, tenant = str(claims["sub"]), claims.get(self._tenant_claim)
        id = hashlib.sha256(f"{self._issuer}\n{subject}".encode()).hexdigest()[:24]
        if tenant is None:
            tenant = f"oidc:{id}"
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
            return None
        scopes = _words(claims.get(self._scope_claim))
        return Caller(
            tenant=tenant,
            key_id=f"oidc:{id}",
            name=subject[:100],
            models=_patterns("models:", scopes),
            routes=_patterns("routes:", scopes),
            admin="admin" in scopes,
        )


def _words(scopes: Any) -> list[str]:
    if isinstance(scopes, str):
        return scopes.split()
    return [scope for scope in scopes if isinstance(scope, str)] if isinstance(scopes, list) else []


def _patterns(kind: str, scopes: Iterable[str]) -> tuple[str, ...]:
    return tuple(scope.removeprefix(kind) for scope in scopes if scope.startswith(kind)) or ("*",)
