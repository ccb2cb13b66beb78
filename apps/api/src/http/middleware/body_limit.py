"""The limit of a request's body, enforced while it is read and before anything else looks at it."""

import re
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.src.exceptions import render
from apps.core.errors import PayloadTooLarge
from apps.gateway.routing.config import FAMILIES

# where documents come as a form, which is written to the disk while it is read
UPLOADS = re.compile(r"/rag/(?:collections|shared)/[^/]+/documents")
# where forms are sent on to an upstream while they are read
PASSAGES = re.compile(rf"/v1/(?:{'|'.join(FAMILIES)})(?:/.*)?")


class BodyLimit:
    """Refuses a Content-Length over the limit at once; a body that only turns out too large, when it does.

    ``max_upload_bytes`` is the limit of forms with documents in them, ``max_passage_bytes`` of those for upstreams.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int, max_passage_bytes: int) -> None:
        self._app = app
        self._max_passage_bytes = max_passage_bytes
        self._max_bytes = max_bytes
        self._max_upload_bytes = max_upload_bytes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        length, most = _content_length(scope), self._limit(scope)
        if length is not None:
            # the server reads no more than what was announced, so there is nothing left to count
            if length > most:
                return render(_too_large(most), scope["path"])(scope, receive, send)
            return self._app(scope, receive, send)
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        return self._app(scope, limited, send)

    def _limit(self, scope: Scope) -> int:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        most = self._max_bytes
        if scope["method"] == "POST" and UPLOADS.fullmatch(path):
            most = self._max_upload_bytes
        elif scope["method"] == "POST" and PASSAGES.fullmatch(path):
            most = self._max_passage_bytes
        if most == self._max_bytes:
            return most
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        return most if kind.lower().startswith(b"multipart/form-data") else self._max_bytes


def _too_large(most: int) -> PayloadTooLarge:
    # what is left of the body is not worth reading, so the connection ends with the answer
    return PayloadTooLarge(
        f"Request body must be at most {most} bytes", details={"max_bytes": most}, headers={"Connection": "close"}
    )


def _content_length(scope: Scope) -> int | None:
    """What the body's length is announced to be; None where it is not."""
    length = None
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length" and value.isdigit():
            length = int(value)
    return length
