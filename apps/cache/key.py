"""Cache keys: digests of everything that an answer depends on, of one canonical spelling of the request.

Tenant, route, the model's revision and every parameter are in a key, so that requests that differ in any of these never
share an answer.
"""

import hashlib
import json
from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from apps.core.callers import Caller
from apps.core.messages import CacheControl

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class NotCanonical(Exception):
    """There is no one spelling of this value: a number too large for a float, or nesting too deep to walk."""


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, where 1, 1.0 and 1e0 are spelled alike. Raises NotCanonical."""
    try:
        return _encode(_canonical(value)).encode()
    except (RecursionError, ValueError) as error:
        raise NotCanonical(type(error).__name__) from None


def fingerprint(*parts: bytes) -> bytes:
    """The full SHA-256 of the parts; their lengths count, so that nothing can be moved from one into the next."""
    return hashlib.sha256(
        b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)])
    ).digest()


def _canonical(value: Any) -> Any:
    if isinstance(value, str):  # nearly all that there is
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise NotCanonical("not finite")
        return int(value) if value.is_integer() else value
    if type(value) is dict or isinstance(value, Mapping):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value


# raised when entries or digests are made in another way, so that old ones are not found
FORMAT = b"2"
ANY_WORDING = b"any wording"
Parameters = Mapping[str, Any]


class Similar(NamedTuple):
    """What a semantic hit needs: ``scope`` is all of the request but ``text``, its last message; ``least`` a cosine."""

    scope: bytes
    text: str
    least: float


class CacheKey(NamedTuple):
    """``digest`` names the answer; ``flight`` also whose budget pays for making it. ``ttl`` seconds it is stored.

    An answer that was made while ``revision`` changed is not stored.
    """

    digest: bytes
    flight: bytes
    ttl: float
    control: CacheControl
    revision: str
    similar: Similar | None = None


def cache_key(
    route: str, parameters: Parameters, revision: str, caller: Caller, control: CacheControl, ttl: float
) -> CacheKey | None:
    """None where the request has no canonical form. ``ttl`` counts where the caller sets none."""
    place = (FORMAT, caller.tenant.encode("utf-8", "surrogatepass"), route.encode(), revision.encode())
    try:
        digest = fingerprint(*place, canonical_json(parameters))
        similar = _similar(place, parameters, caller.semantic_cache)
    except NotCanonical:
        return None
    payer = caller.key_id or "" if caller.budget is not None else ""
    flight = fingerprint(digest, payer.encode()) if payer else digest
    return CacheKey(digest, flight, ttl if control.ttl is None else control.ttl, control, revision, similar)


def _similar(place: tuple[bytes, ...], parameters: Parameters, least: float | None) -> Similar | None:
    parts = without_last_user_text(parameters) if least is not None else None
    if least is None or parts is None:
        return None
    rest, text = parts
    return Similar(fingerprint(*place, ANY_WORDING, canonical_json(rest)), text, least)


def without_last_user_text(parameters: Parameters) -> tuple[Parameters, str] | None:
    """The request without the text of its last message; None where that is not a text of the user's."""
    messages = parameters.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, Mapping) and last.get("role") == "user" and isinstance(last.get("content"), str):
        emptied = {**last, "content": None}
        return {**parameters, "messages": [*messages[:-1], emptied]}, last["content"]  # type: ignore[index]
    given = parameters.get("input")
    if messages is None and isinstance(given, str):
        return {**parameters, "input": None}, given
    return None
