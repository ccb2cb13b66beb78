"""The gateway as a ChatModel: what /generate asks where there is a routing file, by the same names as /v1.

The models that may write an answer for another ChatModel: the local one, or any name of the gateway.

Implements Writer, so that whoever asks can make a prompt fit first. It does not know what the answers are for.

Every model by the names that callers use, as one ChatModel: what agents ask, in process.
"""

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace

from apps.core.calls import CallRecord
from apps.core.deltas import Delta
from apps.core.errors import (
    AppError,
    InternalError,
    InvalidValue,
    NotFound,
    Timeout,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from apps.core.messages import ChatRequest, Message
from apps.core.ports import ChatModel, ContextWindow, Readiness, Writer
from apps.gateway.gateway import Gateway
from apps.gateway.protocol import Receipt
from apps.gateway.routing.router import Needs
from apps.gateway.routing.targets import Target


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


# what a chat template puts around a message, with much room to spare
TOKENS_PER_MESSAGE = 16


class EstimatedWindow:
    """Implements ContextWindow for a model whose tokenizer is not here.

    A token is at least a byte of UTF-8 in every tokenizer that models use today, so a token a byte is never too few.
    It is three to four times too many for English.
    """

    control: Collection[str] = ()

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    async def count(self, messages: Sequence[Message]) -> int:
        return sum(TOKENS_PER_MESSAGE + _bytes(message) for message in messages)


class Writers:
    """Implements Writer. A request without a ``model`` means ``default``; where that is empty, the local model.

    ``context`` is the window of models of which the routing file does not tell it. ``gateway`` is set once it is
    there: the gateway's own providers may ask the writers.
    """

    def __init__(self, local: ChatModel, default: str, context: int) -> None:
        self._local = local
        self._default = default
        self._context = context
        self.gateway: Gateway | None = None

    async def window(self, request: ChatRequest) -> ContextWindow:
        targets = self._targets(request)
        if all(target.provider.chat is self._local for target in targets) and isinstance(self._local, Writer):
            return await self._local.window(request)
        return EstimatedWindow(min((t.config.context or self._context for t in targets), default=self._context))

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self._targets(request)
        name = request.model or self._default
        chosen = replace(request, model=name or None)
        deltas = self._gateway().stream(chosen, Receipt()) if name else self._local.stream(chosen)
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    yield delta
        except AppError as error:
            raise all_tried(error) from error

    def readiness(self) -> Readiness:
        """Of whoever writes where the caller names nobody."""
        if not self._default:
            return self._local.readiness()
        return RoutedModel(self._gateway(), self._default).readiness()

    async def start(self) -> None:
        """The models are started by whoever made them."""

    async def aclose(self) -> None:
        """The models are closed by whoever made them."""

    def _targets(self, request: ChatRequest) -> list[Target]:
        """Who may answer; nobody is listed where it is the local model itself. Raises NotFound and InvalidValue."""
        name = request.model or self._default
        targets = self._gateway().router.candidates(name, Needs()) if name else []
        if any(target.provider.config.prefix for target in targets):
            raise InvalidValue("A collection cannot write another collection's answers", field="model")
        return targets

    def _gateway(self) -> Gateway:
        if self.gateway is None:
            raise RuntimeError("the writers have no gateway yet")
        return self.gateway


def _bytes(message: Message) -> int:
    content = message.content
    texts = [content] if isinstance(content, str) else [str(part) for part in content]
    return sum(len(text.encode()) for text in texts)


def all_tried(error: AppError) -> AppError:
    """The same error for those above, who must not try again: all attempts have been made here."""
    if isinstance(error, UpstreamUnavailable):
        kind: type[AppError] = InternalError
    elif isinstance(error, UpstreamTimeout):
        kind = Timeout
    else:
        return error
    return kind(error.message, field=error.field, details=error.details, headers=error.headers)


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
