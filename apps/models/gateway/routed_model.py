"""The gateway as a ChatModel: what /generate asks where there is a routing file, by the same names as /v1."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from apps.core.accounting import CallRecord
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
        # whoever is behind the gateway has a call of his own, which is not on that record
        asked = replace(request, model=request.model or self._default, record=None)
        receipt = Receipt()
        try:
            async with aclosing(self._gateway.stream(asked, receipt)) as deltas:
                async for delta in deltas:
                    _note(request.record, receipt)
                    yield delta
        finally:
            _note(request.record, receipt)

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


def _note(record: CallRecord | None, receipt: Receipt) -> None:
    if record is not None:
        record.provider, record.attempts, record.queued = receipt.provider, receipt.attempts, receipt.queued


ORDER = ("ready", "loading", "failed", "not_configured")
