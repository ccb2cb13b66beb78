"""Bearer tokens of an OpenID Connect issuer: a signed JWT in, a caller out. The token chooses nothing about itself."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apps.core.callers import Caller
from apps.core.process import import_aside
from apps.operations.jwks import Jwk, Jwks

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
        self._imported = False

    @staticmethod
    def looks_like_one(credential: str) -> bool:
        return len(credential) <= LONGEST and SHAPE.fullmatch(credential) is not None

    async def caller(self, token: str) -> Caller | None:
        """None for a token that is not good, whatever the reason. Raises IssuerUnavailable where its key is unknown."""
        if not self._imported:
            await import_aside(import_jwt)
            self._imported = True
        import jwt

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
        import jwt

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


def import_jwt() -> None:
    """With cryptography a twelfth of a second."""
    import jwt.algorithms

    del jwt
