"""What settings may hold: the types of those whose value is more than a number or a word, each with its check.

A check says in words what would be right, and never repeats the value. Those that look at other settings see the
ones that stand before them in `settings.py`.
"""

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_settings import NoDecode

RATE = re.compile(r"[1-9]\d*\s*(?:/|per)\s*(?:[1-9]\d*\s*)?(?:second|minute|hour|day|month|year)s?")

SECRET_CHARACTERS = 32
# no secret is shared with an issuer, so that its public key can never pass for one
ASYMMETRIC = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"),
)


def _rate(value: str) -> str:
    if not RATE.fullmatch(value.strip().lower()):
        raise ValueError("must look like 10/minute")
    return value.strip().lower()


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _origins(value: list[str]) -> list[str]:
    for origin in value:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
            raise ValueError("each must look like https://example.com, without a path")
    return value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not value.isprintable():
        raise ValueError("must start with http:// or https://")
    try:
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or " " in value:
        raise ValueError("must name a host, and a port from 1 to 65535 where it names one")
    return value


def _http_url_or_none(value: str) -> str:
    return _http_url(value) if value else value


def _header_value(value: SecretStr) -> SecretStr:
    key = value.get_secret_value().strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("must be printable ASCII, since it goes into a header")
    return SecretStr(key)


def _database_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value().strip()
    if url and not re.match(r"postgres(ql)?(\+asyncpg)?://[^/\s]", url):
        raise ValueError("must look like postgresql://user:password@host:5432/name, or be empty for SQLite")
    return SecretStr(url)


def _secret_key(value: SecretStr, info: ValidationInfo) -> SecretStr:
    secret = value.get_secret_value().strip()
    if secret and len(secret) < SECRET_CHARACTERS:
        raise ValueError(f"must have at least {SECRET_CHARACTERS} characters")
    if not secret and info.data.get("env") == "production" and info.data.get("auth") != "off":
        raise ValueError(f"must be set to {SECRET_CHARACTERS} or more random characters where ENV=production")
    return SecretStr(secret)


def _fleet_secret(value: SecretStr, info: ValidationInfo) -> SecretStr:
    secret = value.get_secret_value().strip()
    if secret and (len(secret) < SECRET_CHARACTERS or not (secret.isascii() and secret.isprintable())):
        raise ValueError(f"must have at least {SECRET_CHARACTERS} characters of printable ASCII")
    # an inherited socket (API_FD) is served before API_UDS, and may be a port's
    own_socket = info.data.get("api_uds") and info.data.get("api_fd") is None
    if not secret and info.data.get("serve_role") == "model" and not own_socket:
        raise ValueError("must be set where SERVE_ROLE=model listens on a port: there are no keys")
    return SecretStr(secret)


def _local_url(value: str) -> str:
    if re.fullmatch(r"http\+unix://%2F[^/\s?#]+|dns://[^/\s?#]+:\d+|list\+https?://[^/\s?#]+/[^\s?#]*", value):
        return value
    return _http_url_or_none(value.rstrip("/"))


def _issuer_url(value: str, info: ValidationInfo) -> str:
    if value and info.data.get("env") == "production" and not value.startswith("https://"):
        raise ValueError("must start with https:// where ENV=production")
    return _http_url(value) if value else value


def _with_issuer(value: str, info: ValidationInfo) -> str:
    if info.data.get("oidc_issuer") and not value:
        raise ValueError("must be set where OIDC_ISSUER is")
    return value


def _algorithms(value: list[str]) -> list[str]:
    if not value or not set(value) <= ASYMMETRIC:
        raise ValueError(f"must be some of {', '.join(sorted(ASYMMETRIC))}")
    return value


Rate = Annotated[str, AfterValidator(_rate)]
Listed = Annotated[list[str], NoDecode, BeforeValidator(_listed)]
Origins = Annotated[Listed, AfterValidator(_origins)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
HttpUrlOrNone = Annotated[str, AfterValidator(_http_url_or_none)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
SecretKey = Annotated[SecretStr, AfterValidator(_secret_key)]
FleetSecret = Annotated[SecretStr, AfterValidator(_fleet_secret)]
LocalUrl = Annotated[str, AfterValidator(_local_url)]
IssuerUrl = Annotated[str, AfterValidator(_issuer_url)]
WithIssuer = Annotated[str, AfterValidator(_with_issuer)]
Algorithms = Annotated[Listed, AfterValidator(_algorithms)]
