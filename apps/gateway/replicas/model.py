"""The local model of a set of replicas as a ChatModel, for what asks that port: /local/generate, documents, agents."""

import json
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any

from apps.core.capacity import ModelCapacity
from apps.core.deltas import Delta
from apps.core.errors import ModelUnavailable
from apps.core.messages import ChatRequest, JsonObject, Message
from apps.core.ports import ContextWindow, Readiness, digest_of
from apps.gateway.protocol import WireCall
from apps.gateway.replicas.table import ANY
from apps.gateway.replicas.target import ReplicaTarget
from apps.gateway.upstream.chat_model import chunks_of
from apps.models.openai_chat import chat_body, deltas_of
from apps.models.upstream_errors import parsed_object

# what of a chat is in its prompt
OF_PROMPTS = ("messages", "tools", "chat_template_kwargs", "documents", "continue_final_message")
# what has no place in a prompt without a template
OF_CHATS = ("messages", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "documents")


class ReplicaModel:
    """Implements Writer, Tokenizing, Measured and KnowsControlTexts. ``name`` ANY: whatever they have."""

    def __init__(self, target: ReplicaTarget, name: str = ANY, shown: str = "") -> None:
        self.target = self._target = target
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
        chunks = chunks_of(self._target, call._replace(raw=json.dumps(body).encode()))
        async for delta in deltas_of(_as_chat(chunks) if request.raw else chunks, self.readiness().name):
            yield delta

    def readiness(self) -> Readiness:
        told = self._target.replicas.table.readiness("chat", self._name)
        return told if told.name != ANY else Readiness(self._shown, told.state, told.reason, told.details, 1.0)

    def capacity(self) -> ModelCapacity:
        known = self._target.replicas.table.capacity("chat", self._name)
        told = self.readiness()
        return known or ModelCapacity.model_construct(id=told.name, kind="chat", status=told.state, reason=told.reason)

    def revision(self, request: ChatRequest) -> str | None:
        told = self.readiness()
        return digest_of(told.name, told.details.get("context_length")) if told.state == "ready" else None

    def control_texts(self) -> list[str] | None:
        return self._control.get(self.readiness().name)

    async def start(self) -> None:
        self._target.replicas.start()

    async def aclose(self) -> None:
        """Close the target. Of a provider's, the router does so by its wire."""
        await self._target.aclose()

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
        # a token by itself is its text: special ones have none
        return [await self.detokenize([token]) for token in tokens]

    async def detokenize(self, tokens: Sequence[int]) -> str:
        body = {"model": self._name, "tokens": list(tokens)}
        return str((await self._ask("/detokenize", body, ChatRequest(())))["prompt"])

    async def window(self, request: ChatRequest) -> ContextWindow:
        """Raises ModelUnavailable while no replica has told of its model."""
        told = self.readiness()
        length = told.details.get("context_length")
        if told.state != "ready" or not isinstance(length, int):
            raise ModelUnavailable(told.reason, details={"state": told.state}, retry_after=told.retry_after or 1.0)
        if told.name not in self._control:
            texts = await self._target.replicas.control_texts(self._name)
            if texts is None:
                raise ModelUnavailable("The replica's tokenizer does not answer", retry_after=1.0)
            self._control[told.name] = texts
        return ReplicaWindow(self, length, self._control[told.name])

    async def _ask(self, path: str, body: Mapping[str, Any], request: ChatRequest) -> dict[str, Any]:
        call = WireCall(path, json.dumps(body).encode(), body, False, request.caller)
        return parsed_object((await self._target.open(call, self._name)).body)


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
