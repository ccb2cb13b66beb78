"""CORS, by Starlette's middleware; its refusal of a preflight is the envelope too."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from apps.api.src.exceptions import render
from apps.core.errors import InvalidValue


class Cors(CORSMiddleware):
    """Answers what Starlette would, and says in JSON what it says in plain text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        refused = render(InvalidValue(bytes(response.body).decode()))
        allowed = {name: value for name, value in response.headers.items() if name.startswith(("access-", "vary"))}
        refused.headers.update(allowed)
        return refused
