"""The response cache in headers: what a request asks of it, and what it had to do with an answer."""

from starlette.requests import Request

from apps.api.src.http.headers import header
from apps.core.errors import InvalidValue
from apps.core.messages import NO_WISHES, CacheWishes

LONGEST_TTL = 7 * 24 * 3600
TTL = "X-Cache-TTL"


def wishes_of(request: Request) -> CacheWishes:
    """Raises InvalidValue where X-Cache-TTL is none."""
    control, ttl = header(request.scope, b"cache-control"), header(request.scope, b"x-cache-ttl")
    if control is None and ttl is None:
        return NO_WISHES
    said = {part.strip().lower() for part in (control or "").split(",")}
    forbidden = "no-store" in said
    return CacheWishes(look=not forbidden and "no-cache" not in said, keep=not forbidden, ttl=_seconds(ttl))


def _seconds(value: str | None) -> int | None:
    if value is None:
        return None
    seconds = int(value) if value.isascii() and value.isdigit() and len(value) < 9 else 0
    if not 1 <= seconds <= LONGEST_TTL:
        details = {"min": 1, "max": LONGEST_TTL}
        raise InvalidValue(f"{TTL} must be a whole number of seconds, 1 to {LONGEST_TTL}", field=TTL, details=details)
    return seconds


def cache_headers(use: str, age: float | None, score: float | None) -> dict[str, str]:
    """X-Cache; with an answer that was not made for this call Age in whole seconds, and how alike the question was."""
    return {"X-Cache": use} if age is None else {"X-Cache": use, **age_headers(age, score)}


def age_headers(age: float, score: float | None) -> dict[str, str]:
    headers = {"Age": str(int(age))}
    if score is not None:
        headers["X-Cache-Score"] = f"{score:.4f}"
    return headers
