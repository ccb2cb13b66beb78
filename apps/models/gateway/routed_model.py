"""The gateway as a ChatModel: what /generate asks where there is a routing file, by the same names as /v1."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from apps.core.deltas import Delta
from apps.core.errors import NotFound
from apps.core.messages import ChatRequest
from apps.core.ports import Readiness
from apps.models.gateway.gateway import Gateway
from apps.models.gateway.router import Needs
from apps.models.gateway.wire import Receipt


class RoutedModel:
    """``default`` is the name that a request without one means."""

    def __init__(self, gateway: Gateway, default: str) -> None:
        self._gateway = gateway
        self._default = default

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        asked = replace(request, model=request.model or self._default)
        async with aclosing(self._gateway.stream(asked, Receipt())) as deltas:
            async for delta in deltas:
                yield delta

    def revision(self, request: ChatRequest) -> str | None:
        return self._gateway.router.revision(request.model or self._default)

    def readiness(self) -> Readiness:
        """Ready where one of the default's targets is."""
        try:
            targets = self._gateway.router.candidates(self._default, Needs())
        except NotFound:
            reason = f"the routing file has no model {self._default}: set DEFAULT_MODEL to one that it has"
            return Readiness(self._default, "not_configured", reason)
        states = [target.provider.chat.readiness() for target in targets]
        best = min(states, key=lambda state: ORDER.index(state.state))
        return Readiness(self._default, best.state, best.reason)

    async def start(self) -> None:
        """The gateway's providers connect when they are first asked."""

    async def aclose(self) -> None:
        """The gateway is closed by whoever made it."""


ORDER = ("ready", "loading", "failed", "not_configured")
