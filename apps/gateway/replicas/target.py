"""A set of replicas as one target, and as a ChatModel.

A call goes to the replica of its key, and elsewhere while none has begun it. The ChatModel is their local model, for
what asks that port: /local/generate, answers from documents, agents and tokens.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from apps.core.deltas import Delta
from apps.core.errors import (
    AppError,
    InternalError,
    ModelUnavailable,
    NotFound,
    Overloaded,
    UpstreamTimeout,
    UpstreamUnavailable,
    quoted,
)
from apps.core.messages import ChatRequest, JsonObject, Message
from apps.core.ports import ContextWindow, Readiness, digest_of
from apps.gateway.protocol import Blocks, WireCall, WireReply
from apps.gateway.replicas.replica_set import ReplicaSet
from apps.gateway.replicas.table import ANY, Replica, affinity
from apps.gateway.upstream.http_target import chunks_of
from apps.models.capacity import Kind, ModelCapacity
from apps.models.openai_chat import chat_body, deltas_of
from apps.models.upstream_errors import parsed_object
from apps.transport.response import ConnectionFailed

KINDS: dict[str, Kind] = {"/embeddings": "embedding", "/embeddings/tokens": "embedding", "/rerank": "rerank"}


class ReplicaTarget:
    """Implements WireTarget. The model ``local`` is whatever local model a replica has."""

    def __init__(self, replicas: ReplicaSet) -> None:
        self.replicas = replicas

    async def open(self, call: WireCall, model: str) -> WireReply:
        """Raises the error of the last replica that was asked, and ModelUnavailable where there is none."""
        kind, key, table = KINDS.get(call.path, "chat"), affinity(call), self.replicas.table
        tried: set[str] = set()
        refused: AppError | None = None
        while (member := await self.replicas.choose(key, kind, model, tried)) is not None:
            replica, kept = member.replica, False
            if tried and call.record is not None:
                call.record.attempts += 1
            replica.in_flight[kind] += 1
            try:
                reply = await member.wire.open(call, model or ANY)
                if reply.rest is not None:
                    reply.rest, kept = _Counted(reply.rest, replica, kind), True
                return reply
            except AppError as error:
                if isinstance(error.__cause__, ConnectionFailed):
                    table.missed(replica, "Nobody listens there", refused=True)
                if not (_may_go_elsewhere(error) or (isinstance(error, UpstreamTimeout) and table.is_out(replica))):
                    raise
                refused = _sooner(refused, error)
                tried.add(replica.address)
            finally:
                if not kept:
                    replica.in_flight[kind] -= 1
        raise refused or self._unavailable(kind, model)

    async def aclose(self) -> None:
        await self.replicas.aclose()

    def _unavailable(self, kind: Kind, model: str) -> AppError:
        table = self.replicas.table
        readiness = table.readiness(kind, model)
        ready = [replica for replica in table.replicas.values() if replica.standing in ("ready", "silent")]
        if ready and not any(replica.capacity_of(kind, model) for replica in ready):
            return NotFound(f"No replica has a model {quoted(model)}", field="model")
        return ModelUnavailable(
            f"No replica can answer now ({readiness.reason})",
            details={"state": readiness.state},
            retry_after=readiness.retry_after,
        )


class _Counted:
    """The rest of a stream; its replica has one call less when it ends."""

    __slots__ = ("_inner", "_kind", "_replica")

    def __init__(self, inner: Blocks, replica: Replica, kind: Kind) -> None:
        self._inner = inner
        self._kind = kind
        self._replica: Replica | None = replica

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._inner.__anext__()

    async def aclose(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.in_flight[self._kind] -= 1
        await self._inner.aclose()


def _may_go_elsewhere(error: AppError) -> bool:
    """Whether another replica may do what this one could not: it failed, is full, or has no model now."""
    if isinstance(error, UpstreamTimeout):
        return False
    return isinstance(error, UpstreamUnavailable | Overloaded | ModelUnavailable | InternalError)


def _sooner(before: AppError | None, error: AppError) -> AppError:
    """Of two refusals, the one after which a call may soonest be made again."""
    if before is None or before.retry_after is None:
        return error
    return before if error.retry_after is not None and before.retry_after <= error.retry_after else error


# what of a chat is in its prompt
OF_PROMPTS = frozenset({"messages", "tools", "chat_template_kwargs", "documents", "continue_final_message"})
OF_PROMPTS |= {"add_generation_prompt"}
# what has no place in a prompt without a template
OF_CHATS = ("messages", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "documents")


class ReplicaModel:
    """Implements Writer, Tokenizing, Measured and KnowsControlTexts. ``name`` ANY: whatever they have."""

    def __init__(self, target: ReplicaTarget, name: str = ANY, shown: str = "") -> None:
        self.target = target
        self._name = name
        self._shown = shown or name
        self._control: dict[str, list[str]] = {}

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Raises what a local model raises, before the first delta: ModelUnavailable, Overloaded, InvalidValue."""
        body = chat_body(request, self._name) | {"stream": True, "stream_options": {"include_usage": True}}
        body["model"] = self._name
        path = "/chat/completions"
        if request.raw:
            path, body = "/completions", _raw_body(request, body)
        call = WireCall(path, b"", body, True, request.caller, request.record, request.fits)
        chunks = chunks_of(self.target, call._replace(raw=json.dumps(body).encode()))
        async for delta in deltas_of(_as_chat(chunks) if request.raw else chunks, self.readiness().name):
            yield delta

    def readiness(self) -> Readiness:
        readiness = self.target.replicas.table.readiness("chat", self._name)
        return (
            readiness
            if readiness.name != ANY
            else Readiness(self._shown, readiness.state, readiness.reason, readiness.details, 1.0)
        )

    def capacity(self) -> ModelCapacity:
        known = self.target.replicas.table.capacity("chat", self._name)
        readiness = self.readiness()
        return known or ModelCapacity.model_construct(
            id=readiness.name, kind="chat", status=readiness.state, reason=readiness.reason
        )

    def revision(self, request: ChatRequest) -> str | None:
        readiness = self.readiness()
        if readiness.state != "ready":
            return None
        return digest_of(readiness.name, readiness.details.get("context_length"), self.capacity().revision)

    def control_texts(self) -> list[str] | None:
        return self._control.get(self.readiness().name)

    async def start(self) -> None:
        self.target.replicas.start()

    async def aclose(self) -> None:
        """Close the target. Of a provider's, the router does so by its wire."""
        await self.target.aclose()

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> list[int]:
        body: dict[str, Any] = {"model": self._name}
        if request.raw:
            body |= {"prompt": _text(request), "add_special_tokens": special}
        else:
            chat = chat_body(request, self._name)
            body |= {key: chat[key] for key in OF_PROMPTS if key in chat}
        tokens: list[int] = (await self._ask("/tokenize", body, request))["tokens"]
        return tokens

    async def pieces(self, tokens: Sequence[int]) -> list[str]:
        # a token by itself is its text
        return [await self.detokenize([token]) for token in tokens]

    async def detokenize(self, tokens: Sequence[int]) -> str:
        body = {"model": self._name, "tokens": list(tokens)}
        return str((await self._ask("/detokenize", body, ChatRequest(())))["prompt"])

    async def window(self, request: ChatRequest) -> ContextWindow:
        """Raises ModelUnavailable while no replica has reported its model."""
        readiness = self.readiness()
        length = readiness.details.get("context_length")
        if readiness.state != "ready" or not isinstance(length, int):
            raise ModelUnavailable(
                readiness.reason, details={"state": readiness.state}, retry_after=readiness.retry_after or 1.0
            )
        if readiness.name not in self._control:
            texts = await self.target.replicas.control_texts(self._name)
            if texts is None:
                raise ModelUnavailable("The replica's tokenizer does not answer", retry_after=1.0)
            self._control[readiness.name] = texts
        return ReplicaWindow(self, length, self._control[readiness.name])

    async def _ask(self, path: str, body: Mapping[str, Any], request: ChatRequest) -> dict[str, Any]:
        call = WireCall(path, json.dumps(body).encode(), body, False, request.caller)
        return parsed_object((await self.target.open(call, self._name)).body)


class ReplicaWindow:
    """Implements ContextWindow: prompts are counted by a replica, to the token."""

    def __init__(self, model: ReplicaModel, tokens: int, control: Collection[str]) -> None:
        self.tokens = tokens
        self.control = control
        self._model = model

    async def count(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> int:
        return len(await self._model.tokenize(ChatRequest(tuple(messages), tools=tuple(tools))))


def _text(request: ChatRequest) -> str:
    return "".join(str(message.content) for message in request.messages)


def _raw_body(request: ChatRequest, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of /completions for a prompt without a template."""
    prompt = list(request.prompt_tokens) if request.prompt_tokens is not None else _text(request)
    kept = {key: value for key, value in body.items() if key not in OF_CHATS}
    return {**kept, "prompt": prompt, **({"echo": True} if request.echo else {})}


async def _as_chat(chunks: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[dict[str, Any], None]:
    """Chunks of /completions as those of a chat."""
    async for chunk in chunks:
        choices = [
            {"delta": {"content": choice.get("text") or ""}, "finish_reason": choice.get("finish_reason")}
            for choice in chunk.get("choices") or ()
        ]
        yield {**chunk, "choices": choices}
