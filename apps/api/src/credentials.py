"""What a request presents to prove who sends it: `Authorization: Bearer` or `X-API-Key`."""

from starlette.types import Scope

BEARER = b"bearer "
LONGEST = 16_384


def presented(scope: Scope) -> str | None:
    """The credential; None where there is none. An empty text, which is nobody's, where there are several."""
    found: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == BEARER:
            value = value[7:]
        elif name != b"x-api-key":
            continue
        value = value.strip()
        if found is not None and found != value:
            return ""
        found = value
    if found is None:
        return None
    return found.decode("latin-1") if len(found) <= LONGEST else ""
