"""One header of a request, found in what the server gave: Starlette's Headers cost a microsecond a look."""

from starlette.requests import Request
from starlette.types import Scope

from apps.core.calls import CallRecord
from apps.core.errors import InvalidValue
from apps.core.messages import DEFAULT_CACHE_CONTROL, CacheControl


def header(scope: Scope, name: bytes) -> str | None:
    """The first of this name, which is in lower case; None where there is none."""
    for given, value in scope["headers"]:
        if given == name:
            return str(value, "latin-1")
    return None


LONGEST_TTL = 7 * 24 * 3600
TTL = "X-Cache-TTL"


def cache_control(request: Request) -> CacheControl:
    """Raises InvalidValue where X-Cache-TTL is none."""
    given, ttl = header(request.scope, b"cache-control"), header(request.scope, b"x-cache-ttl")
    if given is None and ttl is None:
        return DEFAULT_CACHE_CONTROL
    said = {part.strip().lower() for part in (given or "").split(",")}
    forbidden = "no-store" in said
    return CacheControl(lookup=not forbidden and "no-cache" not in said, store=not forbidden, ttl=_seconds(ttl))


def _seconds(value: str | None) -> int | None:
    if value is None:
        return None
    seconds = int(value) if value.isascii() and value.isdigit() and len(value) < 9 else 0
    if not 1 <= seconds <= LONGEST_TTL:
        details = {"min": 1, "max": LONGEST_TTL}
        raise InvalidValue(f"{TTL} must be a whole number of seconds, 1 to {LONGEST_TTL}", field=TTL, details=details)
    return seconds


def cache_use(record: CallRecord) -> str:
    """What a receipt says of the cache: an answer that it is not asked for is made for the call too."""
    return "miss" if record.cache == "off" else record.cache


def cache_headers(use: str, age: float | None, score: float | None) -> dict[str, str]:
    """X-Cache; with an answer that was not made for this call Age in whole seconds, and how alike the question was."""
    return {"X-Cache": use} if age is None else {"X-Cache": use, **age_headers(age, score)}


def age_headers(age: float, score: float | None) -> dict[str, str]:
    headers = {"Age": str(int(age))}
    if score is not None:
        headers["X-Cache-Score"] = f"{score:.4f}"
    return headers
