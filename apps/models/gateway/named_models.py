"""Every model by the names that callers use, as one ChatModel: what agents ask, in process."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from apps.core.deltas import Delta
from apps.core.errors import AppError
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel, Readiness
from apps.models.gateway.gateway import Gateway
from apps.models.gateway.router import Needs
from apps.models.gateway.wire import Receipt
from apps.models.gateway.writers import all_tried

LOCAL = "local"


class NamedModels:
    """A request without a ``model`` means ``default``; ``local`` is the local model, whatever it is called today.

    ``gateway`` is set once it is there: the gateway's own providers may ask these.
    """

    def __init__(self, local: ChatModel, default: str) -> None:
        self._local = local
        self._default = default
        self.gateway: Gateway | None = None

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        if self.gateway is None:
            raise RuntimeError("there is no gateway yet")
        name = request.model or self._default
        if name == LOCAL and LOCAL not in self.gateway.router.names():
            deltas = self._local.stream(replace(request, model=None))
        else:
            deltas = self.gateway.stream(replace(request, model=name), Receipt())
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    yield delta
        except AppError as error:
            raise all_tried(error) from error

    def dearest(self, name: str | None) -> tuple[float, float] | None:
        """US dollars for a million tokens of prompt and answer, at the dearest target; None where one is not known."""
        if self.gateway is None:
            raise RuntimeError("there is no gateway yet")
        asked = name or self._default
        if asked == LOCAL and LOCAL not in self.gateway.router.names():
            return 0.0, 0.0
        price = self.gateway.dearest(asked, Needs(tools=True))
        return None if price is None else (price.input, price.output)

    def readiness(self) -> Readiness:
        return self._local.readiness()

    async def start(self) -> None:
        """The models are started by whoever made them."""

    async def aclose(self) -> None:
        """The models are closed by whoever made them."""
