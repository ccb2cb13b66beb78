"""What a key may do and for how long, as those who make keys write it: on the command line and in JSON alike."""

import hashlib
import hmac
import os
import re
import secrets
import time
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.config import JsonDict

from apps.core.callers import SHARED, Budget, Period
from apps.core.fields import Between, CodePoints, Entries, KnownFields

TENANT = re.compile(r"[\w.@:-]{1,100}")
BUDGET = re.compile(r"(-?\d{1,30}(?:\.\d{1,9})?)/(day|month)")
SPAN = re.compile(r"([1-9]\d{0,5})([mhd])")
SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
MOST = 1_000_000_000
DOLLARS = Between(0, MOST, above=True)
EXAMPLE: JsonDict = {
    "name": "ci",
    "models": ["local", "gpt-4o*"],
    "routes": ["/v1/*"],
    "rpm": 60,
    "tpm": 100_000,
    "budget_usd": "5/month",
    "expires": "90d",
    "ip": ["10.0.0.0/8"],
}


def _tenant(value: str) -> str:
    if value == SHARED:
        raise ValueError(f"must not be {SHARED}: /rag/{SHARED} is for the documents that all tenants may read")
    if not TENANT.fullmatch(value):
        raise ValueError("must be 1 to 100 letters, digits or any of . _ @ : -")
    return value


def _name(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("must be printable, and not empty")
    return value.strip()


def _pattern(value: str) -> str:
    if not value.strip() or not value.isprintable() or value != value.strip():
        raise ValueError("must be a pattern like gpt-4o* or /v1/*")
    return value


def _budget(value: str) -> str:
    parse_budget(value)
    return value


def _expiry(value: str) -> str:
    parse_expiry(value, time.time())
    return value


def _network(value: str) -> str:
    try:
        return str(ip_network(value, strict=False))
    except ValueError:
        raise ValueError("must be an address or a network like 10.0.0.0/8") from None


Pattern = Annotated[str, CodePoints(200), AfterValidator(_pattern)]
AMinute = Annotated[int, Between(1, MOST)]


class KeyTerms(KnownFields):
    """The terms of a new key. What is left out is not limited, except that `admin` is off."""

    model_config = ConfigDict(strict=True, json_schema_extra={"examples": [EXAMPLE]})

    name: Annotated[str, CodePoints(100), AfterValidator(_name)] = Field(description="What its owner calls it")
    tenant: Annotated[str, AfterValidator(_tenant)] | None = Field(
        None, description="Whose data it sees: keys of one tenant share theirs; left out, a tenant of its own"
    )
    models: Annotated[list[Pattern], Entries(1, 50)] = Field(
        ["*"], description="Patterns of model names; `local` is the local model, whatever its name is"
    )
    routes: Annotated[list[Pattern], Entries(1, 50)] = Field(["*"], description="Patterns of paths")
    admin: bool = Field(False, description="May call /admin")
    rpm: AMinute | None = Field(None, description="Requests a minute")
    tpm: AMinute | None = Field(None, description="Tokens a minute")
    budget_usd: Annotated[str, AfterValidator(_budget)] | None = Field(
        None, description="US dollars a day or a month: 5/month"
    )
    expires: Annotated[str, AfterValidator(_expiry)] | None = Field(
        None, description="In 90d, 12h or 30m, or on a date such as 2027-01-31"
    )
    ip: Annotated[list[Annotated[str, AfterValidator(_network)]], Entries(0, 50)] = Field(
        [], description="Addresses and networks that it may be used from; none: from anywhere"
    )
    semantic_cache: Annotated[float, Between(0, 1, above=True)] | None = Field(
        None, description="Least cosine at which an answer to another wording may be given; left out: never"
    )


def parse_budget(text: str) -> Budget:
    """Raises ValueError with words for the operator; one out of range names both ends."""
    found = BUDGET.fullmatch(text)
    if not found:
        raise ValueError("must look like 5/month or 0.50/day")
    period: Period = "day" if found[2] == "day" else "month"
    return Budget(DOLLARS.check(float(found[1])), period)


def parse_expiry(text: str, now: float) -> float:
    """A time after ``now`` in seconds since 1970; dates are UTC. Raises ValueError likewise."""
    span = SPAN.fullmatch(text)
    if span:
        return now + int(span[1]) * SECONDS[span[2]]
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must look like 90d, 12h, 30m or 2027-01-31") from None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    if date.timestamp() <= now:
        raise ValueError("must be in the future")
    return date.timestamp()


MARK = "ga_"
RANDOM_BYTES = 32
# seven characters, so that not even eight of the key lie anywhere
SHOWN_CHARACTERS = len(MARK) + 4
FILE = "secret_key"


def new_key() -> str:
    """256 random bits behind a mark that a search for leaked secrets can look for."""
    return MARK + secrets.token_urlsafe(RANDOM_BYTES)


def looks_like_key(credential: str) -> bool:
    """Whether it was made by this product; who knows no more than that knows nothing."""
    return credential.startswith(MARK)


def shown_prefix(key: str) -> str:
    """The beginning by which its owner recognises a key; it is of no other use."""
    return f"{key[:SHOWN_CHARACTERS]}..."


def digest_of(key: str, secret: bytes) -> bytes:
    return hmac.digest(secret, key.encode("utf-8", "surrogateescape"), hashlib.sha256)


def server_secret(configured: str, data_dir: Path) -> bytes:
    """SECRET_KEY, or one of this machine's own: made once in ``data_dir``, for its owner's eyes only."""
    if configured:
        return configured.encode()
    file = data_dir / FILE
    if not file.exists():
        _make(file)
    return file.read_bytes()


def _make(file: Path) -> None:
    """Whole or not at all, and the first of several processes wins."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secrets.token_urlsafe(48))
    try:
        os.link(draft, file)
    except FileExistsError:
        return
    finally:
        draft.unlink()
