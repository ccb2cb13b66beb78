"""The gateway as a ChatModel: /generate, answers from documents and agents ask it, by the same names as /v1."""

import json
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
from apps.core.messages import ChatRequest, JsonObject, Message
from apps.core.ports import ChatModel, ContextWindow, Readiness, Writer
from apps.gateway.gateway import Gateway
from apps.gateway.routing.router import Needs
from apps.gateway.routing.targets import Target

# the name that leads to the local model, whatever its own name is
LOCAL = "local"
# best first
STATES = ("ready", "unknown", "loading", "failed", "not_configured")
CONTEXT = 4096
# what a chat template puts around a message, with much room to spare
TOKENS_PER_MESSAGE = 16


class GatewayModel:
    """Implements Writer. A request without a ``model`` means ``default``.

    ``local`` answers to LOCAL, and to an empty default, where the routing file has no model of that name; None: only
    the routing file's names count. ``context`` is the window, in tokens, of models whose window the routing file does
    not give. ``upstream``: every name is the default provider's, also one that a model of this process has.
    """

    def __init__(
        self,
        gateway: Gateway,
        default: str,
        local: ChatModel | None = None,
        context: int = CONTEXT,
        *,
        upstream: bool = False,
    ) -> None:
        self._gateway = gateway
        self._default = default
        self._local = local
        self._context = context
        self._upstream = upstream

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        name = request.model or self._default
        local = self._local_for(name)
        if local is not None:
            deltas = local.stream(replace(request, model=None))
        else:
            record = request.record or CallRecord(request.caller, "", name)
            deltas = self._gateway.stream(replace(request, model=name), record, upstream=self._upstream)
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    yield delta
        except AppError as error:
            final = _tried(error)
            if final is error:  # an error that is its own cause would keep itself for ever
                raise
            raise final from error

    async def window(self, request: ChatRequest) -> ContextWindow:
        name = request.model or self._default
        local, targets = self._local_for(name), []
        if local is None:
            targets = self._gateway.router.candidates(name, Needs())
            if any(target.provider.config.prefix for target in targets):
                raise InvalidValue("A collection cannot write another collection's answers", field="model")
            local = _the_one(targets)
        if isinstance(local, Writer):
            return await local.window(request)
        return EstimatedWindow(min((t.config.context or self._context for t in targets), default=self._context))

    def highest_price(self, name: str | None) -> tuple[float, float] | None:
        """US dollars for a million tokens of prompt and answer, at the dearest target; None where one is not known."""
        asked = name or self._default
        if self._local_for(asked) is not None:
            return 0.0, 0.0
        price = self._gateway.dearest(asked, Needs(tools=True))
        return None if price is None else (price.input, price.output)

    def revision(self, request: ChatRequest) -> str | None:
        router, name = self._gateway.router, request.model or self._default
        return router.upstream_revision(name) if self._upstream else router.revision(name)

    def readiness(self) -> Readiness:
        """As ready as the readiest of the default's targets."""
        local = self._local_for(self._default)
        if local is not None:
            return local.readiness()
        try:
            router = self._gateway.router
            targets = [router.upstream(self._default)] if self._upstream else router.candidates(self._default, Needs())
        except NotFound:
            reason = f"the routing file has no model {self._default}: set DEFAULT_MODEL to one that it has"
            return Readiness(self._default, "not_configured", reason)
        states = [target.provider.chat.readiness() for target in targets]
        best = min(states, key=lambda state: STATES.index(state.state))
        return Readiness(self._default, best.state, best.reason)

    async def start(self) -> None:
        """The gateway's providers connect when they are first asked."""

    async def aclose(self) -> None:
        """The gateway and the local model are closed by their makers."""

    def _local_for(self, name: str) -> ChatModel | None:
        """The local model, where it answers to this name without the router."""
        taken = name == LOCAL and LOCAL in self._gateway.router.names()
        return self._local if name in ("", LOCAL) and not taken else None


class EstimatedWindow:
    """Implements ContextWindow for a model whose tokenizer is not here.

    A token is at least a byte of UTF-8 in every tokenizer that models use today, so a token a byte is never too few.
    It is three to four times too many for English.
    """

    control: Collection[str] = ()

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    async def count(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> int:
        described = sum(len(json.dumps(tool, ensure_ascii=False).encode()) for tool in tools)
        return described + sum(TOKENS_PER_MESSAGE + _bytes(message) for message in messages)


def _the_one(targets: Sequence[Target]) -> ChatModel | None:
    """The model of this process that is all of these targets; None where they are several, or elsewhere."""
    models = {id(target.provider.chat): target.provider.chat for target in targets}
    return next(iter(models.values())) if len(models) == 1 else None


def _bytes(message: Message) -> int:
    content = message.content
    texts = [content] if isinstance(content, str) else [str(part) for part in content]
    return sum(len(text.encode()) for text in texts)


def _tried(error: AppError) -> AppError:
    """The same error as one that is not retried any more: all attempts were made by the gateway."""
    if isinstance(error, UpstreamUnavailable):
        kind: type[AppError] = InternalError
    elif isinstance(error, UpstreamTimeout):
        kind = Timeout
    else:
        return error
    return error.as_kind(kind)
