"""The limit of a request's body, enforced while it is read and before anything else looks at it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.src.exceptions import render
from apps.core.errors import PayloadTooLarge


class BodyLimit:
    """Refuses a Content-Length over the limit at once; a body that only turns out too large, when it does."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = _content_length(scope)
        if length is not None:
            # the server reads no more than what was announced, so there is nothing left to count
            if length > self._max_bytes:
                await render(self._too_large(), scope["path"])(scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, limited, send)

    def _too_large(self) -> PayloadTooLarge:
        # what is left of the body is not worth reading, so the connection ends with the answer
        return PayloadTooLarge(
            f"Request body must be at most {self._max_bytes} bytes",
            details={"max_bytes": self._max_bytes},
            headers={"Connection": "close"},
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
