"""The innermost layer: a crash becomes the envelope here, inside the layers that add headers to every answer."""

import logging
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.src.exceptions import render
from apps.core.errors import InternalError

log = logging.getLogger(__name__)


class CrashGuard:
    """Answers INTERNAL_ERROR; where bytes are already out it ends the connection unfinished instead."""

    def __init__(self, app: ASGIApp, tracebacks: bool) -> None:
        self._app = app
        self._tracebacks = tracebacks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        def watched(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            return send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http":
                raise
            log.error("Crash: %s", type(error).__name__, exc_info=error if self._tracebacks else None)
            if not started:
                await render(InternalError("Internal server error"), scope["path"])(scope, receive, send)
