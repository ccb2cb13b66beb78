"""CORS: Starlette's own middleware, kept off the path of everything that no browser page sent."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send


class BrowserCors(CORSMiddleware):
    """A request without an Origin is not a page's: it needs none of the headers, and passes untouched."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)
