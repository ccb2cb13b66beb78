"""The gateway: a routing file in force, asked in OpenAI's shapes or as a ChatModel, and replaced whole on reload.

/generate, answers from documents and agents ask the ChatModel, by the same names as /v1.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace

from apps.core.calls import CallRecord, Price, cost, priced
from apps.core.deltas import Begun, Delta, begin
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
from apps.core.ports import STATES, ChatModel, ContextWindow, Readiness, Writer
from apps.gateway.openai_api.stored_responses import StoredResponses
from apps.gateway.protocol import LIMITS, ExpectedUse, MakesResponses, WireCall, WireReply
from apps.gateway.routing.attempts import Attempts, Opened
from apps.gateway.routing.breaker import RetryBudgets
from apps.gateway.routing.router import Needs, Router
from apps.gateway.routing.targets import FREE, Target


class Gateway:
    """Sends calls to the targets of its router, which `load` makes.

    The models of this process may ask the gateway that they are served by: so it is made before them, and loaded when
    they are there. ``stored_responses`` keeps those that are made from chat completions here; a reload loses none.
    """

    router: Router

    def __init__(self, attempts: Attempts, stored_responses: StoredResponses | None = None) -> None:
        self._attempts = attempts
        self.stored_responses = StoredResponses(0) if stored_responses is None else stored_responses
        self.budgets = RetryBudgets()
        self._retired: dict[asyncio.Task[None], Router] = {}

    def load(self, build: Callable[[], Router]) -> None:
        """Put a router in force. ``build`` reads and checks the routing file, and raises where that is wrong."""
        self.router = build()
        self._build = build

    async def start(self) -> None:
        """Begin what providers do before they are asked; a reload begins it for those that are new."""
        for provider in self.router.providers.values():
            if not provider.config.in_process:
                await provider.chat.start()

    async def open(self, call: WireCall, record: CallRecord, deadline: float | None = None) -> Opened[WireReply]:
        """Send a call to the first of its candidates that begins to answer; ``record`` is the call's own.

        The caller closes what is returned, where it is a stream; a whole answer has given its place back already.
        """

        def opener(target: Target) -> Awaitable[WireReply]:
            return target.provider.wire.open(call, target.config.model)

        name, router = str(call.body["model"]), self.router
        candidates = router.candidates(name, needs_of(call))
        if call.path == "/responses" and call.body.get("background") is True:
            # one that cannot do it has no better answer than the error of one that can
            candidates = [one for one in candidates if not _makes_responses(one)] or candidates
        router.enter()
        kept = False
        try:
            opened = await self._attempts.open(
                candidates, opener, record, self.budgets.of(name), streamed=call.stream, deadline=deadline
            )
            if opened.value.rest is None:
                opened.release()
            else:
                opened.closes(opened.value.close)
                opened.closes(router.leave_later)
                kept = True
            return opened
        finally:
            if not kept:
                router.leave()

    def makes_responses(self, call: WireCall) -> bool:
        """Whether its first candidate's responses are made from chats here. Raises NotFound for an unknown model."""
        return _makes_responses(self.router.candidates(str(call.body["model"]), needs_of(call))[0])

    async def stream(
        self, request: ChatRequest, record: CallRecord, *, upstream: bool = False
    ) -> AsyncGenerator[Delta, None]:
        """The same for a ChatRequest: deltas of the first candidate that has one.

        ``upstream``: the default provider is called, even where a model of this process has that name.
        """

        async def opener(target: Target) -> Begun:
            # the attempts of a target that asks others are not the call's
            waits = record if target.provider.own_queue else None
            forwarded = replace(request, model=target.config.model or None, record=waits)
            return await begin(target.provider.chat.stream(forwarded))

        name, router = request.model or "", self.router
        needs = Needs(tools=bool(request.tools), tokens=request.max_tokens or 0)
        candidates = [router.upstream(name)] if upstream else router.candidates(name, needs)
        router.enter()
        try:
            opened = await self._attempts.open(candidates, opener, record, self.budgets.of(name), streamed=True)
            opened.closes(opened.value.rest.aclose)
            try:
                yield opened.value.first
                async for delta in opened.value.rest:
                    yield _priced(delta, opened.target.price)
            except AppError as error:
                opened.broke_off(error)
                raise
            finally:
                await opened.close()
        finally:
            router.leave()

    def most_cost(self, call: WireCall, use: ExpectedUse) -> float | None:
        """US dollars that a call may cost at the dearest of its targets; None where the price of one is not known."""
        price = self.dearest(str(call.body["model"]), needs_of(call))
        return None if price is None else cost(price, use.prompt, use.answer)

    def dearest(self, name: str, needs: Needs) -> Price | None:
        """The price of the dearest target that a call of this name may reach; None where one's is not known."""
        try:
            return self.router.dearest(name, needs)
        except AppError:
            return FREE  # it will not be made

    def reload(self) -> None:
        """Read the file again, all or nothing; calls under way end on the providers they began on.

        Raises what ``build`` raises, and then nothing has changed.
        """
        before, self.router = self.router, self._build()
        task = asyncio.create_task(self._replace(before))
        self._retired[task] = before
        task.add_done_callback(lambda done: self._retired.pop(done, None))

    async def _replace(self, before: Router) -> None:
        await self.start()
        await before.idle()
        await before.aclose()

    async def aclose(self) -> None:
        routers = [self.router, *self._retired.values()]
        for task in list(self._retired):
            task.cancel()
        for router in routers:
            await router.aclose()


def _makes_responses(target: Target) -> bool:
    wire = target.provider.wire
    return isinstance(wire, MakesResponses) and wire.makes_responses


def _priced(delta: Delta, price: Price | None) -> Delta:
    """The delta whose usage has its cost, where the routing file knows a price."""
    return delta if delta.usage is None else replace(delta, usage=priced(delta.usage, price))


def needs_of(call: WireCall) -> Needs:
    """Read from the body what a target must be able to do; tokens by the rule of thumb of four bytes each."""
    if call.path == "/embeddings":
        # each text counts for itself, and not against a context
        return Needs()
    body = call.body
    prompt = call.prompt_size
    limit = next((limit for name in LIMITS if (limit := body.get(name))), 0)
    answer = limit if isinstance(limit, int) else 0
    return Needs(tools=bool(body.get("tools")), images=prompt.images > 0, tokens=prompt.tokens + answer)


# the name that leads to the local model, whatever its own name is
LOCAL = "local"
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
        resolved = name or self._default
        if self._local_for(resolved) is not None:
            return 0.0, 0.0
        price = self._gateway.dearest(resolved, Needs(tools=True))
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
