"""Canonical requests: what means the same has the same bytes, and so the same SHA-256. Decides nothing."""

import hashlib
import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

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
