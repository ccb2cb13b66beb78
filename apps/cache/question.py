"""Canonical requests: what means the same has the same bytes, and so the same SHA-256. Decides nothing.

Questions: a call as the cache sees it, under digests that name everything its answer depends on.

Tenant, route, the model's revision and every parameter are in them, so that what differs in any of these never meets.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NamedTuple

from apps.core.callers import Caller
from apps.core.messages import CacheWishes

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
FORMAT = b"1"
ANY_WORDING = b"any wording"
Asked = Mapping[str, Any]


class Alike(NamedTuple):
    """What may be answered from another wording: ``scope`` is all of the question but ``text``, its last message."""

    scope: bytes
    text: str
    least: float


class Question(NamedTuple):
    """``digest`` names the answer; ``flight`` also whose budget pays for making it. ``ttl`` seconds it is kept.

    An answer made while ``revision`` changed is not this question's.
    """

    digest: bytes
    flight: bytes
    ttl: float
    wishes: CacheWishes
    revision: str
    alike: Alike | None = None


def question(
    route: str,
    asked: Asked,
    revision: str,
    caller: Caller,
    wishes: CacheWishes,
    ttl: float,
    split: Callable[[Asked], tuple[Asked, str] | None],
) -> Question | None:
    """None where the request has no canonical form. ``split`` takes the text out that may be worded otherwise."""
    place = (FORMAT, caller.tenant.encode("utf-8", "surrogatepass"), route.encode(), revision.encode())
    try:
        digest = fingerprint(*place, canonical_json(asked))
        alike = _alike(place, asked, caller.semantic_cache, split)
    except NotCanonical:
        return None
    payer = caller.key_id or "" if caller.budget is not None else ""
    flight = fingerprint(digest, payer.encode()) if payer else digest
    return Question(digest, flight, ttl if wishes.ttl is None else wishes.ttl, wishes, revision, alike)


def _alike(
    place: tuple[bytes, ...],
    asked: Asked,
    least: float | None,
    split: Callable[[Asked], tuple[Asked, str] | None],
) -> Alike | None:
    parts = split(asked) if least is not None else None
    if least is None or parts is None:
        return None
    rest, text = parts
    return Alike(fingerprint(*place, ANY_WORDING, canonical_json(rest)), text, least)


def without_last_user_text(asked: Asked) -> tuple[Asked, str] | None:
    """The request without the text of its last message; None where that is not a text of the user's."""
    messages = asked.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, Mapping) and last.get("role") == "user" and isinstance(last.get("content"), str):
        emptied = {**last, "content": None}
        return {**asked, "messages": [*messages[:-1], emptied]}, last["content"]  # type: ignore[index]
    given = asked.get("input")
    if messages is None and isinstance(given, str):
        return {**asked, "input": None}, given
    return None
