"""JSON as RFC 8259 has it, and no more: what is read here can be written again, and means the same to every reader."""

import json
from math import isfinite
from typing import Any


def read_json_text(text: str) -> Any:
    """Raises ValueError, also for NaN, a number out of a float's range, a lone surrogate, and nesting too deep to walk.

    Python's own reader takes all of these, and its writer then fails, or writes what is no JSON.
    """
    try:
        value = _decode(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(written: str) -> float:
    value = float(written)
    if not isfinite(value):
        raise ValueError("a number is too large")
    return value


_decode = json.JSONDecoder(parse_constant=_constant, parse_float=_finite).decode
