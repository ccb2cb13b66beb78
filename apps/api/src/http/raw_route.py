"""The route class of the gateway's path: FastAPI documents it, Starlette serves it.

The endpoint takes the request and nothing else, so there is nothing for FastAPI to solve and no second parse.
"""

from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import request_response

from apps.api.src.http.json_body import Handler


class RawRoute(APIRoute):
    """``endpoint`` is called with the request as it came; a subclass may wrap it, as LimitedRoute does."""

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.handler = self.get_route_handler()
        self.app = request_response(self.handler)

    def get_route_handler(self) -> Handler:
        endpoint: Handler = self.endpoint
        return endpoint
