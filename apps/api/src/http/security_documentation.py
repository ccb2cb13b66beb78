"""What the OpenAPI page says of keys: the two ways to send one, and 401 and 403 on every route that needs one.

Imported when the page is first asked for.
"""

from typing import Any

from apps.api.src.auth.middleware import is_open
from apps.api.src.http.docs_page import METHODS
from apps.api.src.http.openapi import error_responses
from apps.api.src.v1.documentation import v1_errors
from apps.core.errors import Forbidden, Overloaded, Unauthorized

SCHEMES = {
    "Bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key, or a token of the configured OpenID Connect issuer. None is needed while keys are off.",
    },
    "X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key"},
}


EITHER: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]


def document_security(page: dict[str, Any]) -> dict[str, Any]:
    """The page with all this in it."""
    page["components"]["securitySchemes"] = SCHEMES
    for path, item in page["paths"].items():
        if is_open(path):
            continue
        for method in METHODS:
            if method in item:
                _protect(item[method], path)
    return page


def _protect(operation: dict[str, Any], path: str) -> None:
    operation["security"] = EITHER
    made = v1_errors if path.startswith("/v1/") else error_responses
    for status, response in made(Unauthorized, Forbidden, Overloaded).items():
        if status in (401, 403, 503):
            operation["responses"].setdefault(str(status), response)
    refused = operation["responses"]["401"]
    refused.setdefault("headers", {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}})
    operation["responses"] = dict(sorted(operation["responses"].items()))
