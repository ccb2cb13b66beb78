"""CORS: Starlette's own middleware, kept off the path of everything that no browser page sent."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from apps.api.src.exceptions import render
from apps.core.errors import InvalidValue


class BrowserCors(CORSMiddleware):
    """A request without an Origin is not a page's: it needs none of the headers, and passes untouched."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for name, _ in scope["headers"]:
                if name == b"origin":
                    await super().__call__(scope, receive, send)
                    return
        await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """What Starlette answers, with its refusal in the envelope instead of plain text."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        refused = render(InvalidValue(bytes(response.body).decode()), path="")
        allowed = {name: value for name, value in response.headers.items() if name.startswith(("access-", "vary"))}
        refused.headers.update(allowed)
        return refused
