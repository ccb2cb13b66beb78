"""An Embedder on OpenAI's wire: POST /embeddings in OpenAI's own shapes, and nothing else."""

import asyncio
import base64
import json
from array import array
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import ChatRequest
from apps.core.ports import Embedder, Readiness
from apps.gateway.protocol import WireCall, WireReply
from apps.models.wrapper import digest_of

KNOWN = frozenset({"model", "input", "encoding_format", "dimensions", "user"})
MOST_TEXTS = 2048


class EmbeddingsWire:
    """Implements WireTarget, and the ChatModel of an embedder, which refuses to chat.

    What the embedder cannot honour is refused by name, never dropped.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def open(self, call: WireCall, model: str) -> WireReply:
        if call.path != "/embeddings":
            raise _only_embeddings(self._embedder.name)
        texts = _texts(call.body.get("input"))
        as_base64 = _options(call.body, self._embedder) == "base64"
        vectors = await self._embedder.embed(texts)
        tokens = sum(await self._embedder.count_tokens(texts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        head = {"object": "list", "model": self._embedder.name, "usage": usage}
        # a thousand vectors are half a second's writing: not on the event loop
        body = await asyncio.to_thread(_body, head, vectors, as_base64)
        if call.record is not None:
            call.record.usage = Usage(tokens, 0)
        return WireReply("application/json", body)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        raise _only_embeddings(self._embedder.name)
        yield Delta()

    def revision(self, request: ChatRequest) -> str:
        return digest_of(self._embedder.name, self._embedder.dimensions)

    def readiness(self) -> Readiness:
        return self._embedder.readiness()

    async def start(self) -> None:
        """The embedder loads at its first use."""

    async def aclose(self) -> None:
        """The embedder is closed by its maker."""


def _only_embeddings(name: str) -> InvalidValue:
    return InvalidValue(f"{name} makes embeddings, and nothing else", field="model")


def _texts(given: Any) -> list[str]:
    if given is None:
        raise MissingRequiredField("Input is required", field="input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise InvalidType("Input must be a string or an array of strings", field="input")
    if not 1 <= len(texts) <= MOST_TEXTS:
        details = {"min": 1, "max": MOST_TEXTS, "received": len(texts)}
        raise InvalidValue(f"Input must be 1 to {MOST_TEXTS} texts", field="input", details=details)
    for index, text in enumerate(texts):
        where = "input" if isinstance(given, str) else f"input.{index}"
        if isinstance(text, int | list) and not isinstance(text, bool):
            raise InvalidValue("This model takes texts, not tokens", field=where)
        if not isinstance(text, str):
            raise InvalidType("Input must be a string or an array of strings", field=where)
        if not text:
            raise InvalidValue("Input must not be empty", field=where)
    return texts


def _options(body: Mapping[str, Any], embedder: Embedder) -> str:
    """The encoding format, after checking that there is nothing that cannot be honoured."""
    for name, value in body.items():
        if name not in KNOWN and value is not None and value is not False:
            raise InvalidValue(f"{embedder.name} cannot honour {name[:100]}", field=name[:100])
    dimensions = body.get("dimensions")
    if dimensions is not None and (dimensions != embedder.dimensions or isinstance(dimensions, bool | float)):
        # cut vectors would be worse ones: it was not trained to be cut
        raise InvalidValue(f"{embedder.name} has {embedder.dimensions} dimensions, no fewer", field="dimensions")
    form = body.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise InvalidValue("Encoding format must be float or base64", field="encoding_format")
    return form or "float"


def _body(head: Mapping[str, Any], vectors: Sequence[Sequence[float]], as_base64: bool) -> bytes:
    """A vector at a time, so that other threads get their turns between two."""
    written = [
        json.dumps({"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector})
        for index, vector in enumerate(vectors)
    ]
    return (json.dumps(head)[:-1] + ', "data": [' + ", ".join(written) + "]}").encode()


def _base64(vector: Sequence[float]) -> str:
    """Little-endian float32, as OpenAI's clients read it."""
    values = array("f", vector)
    if values.itemsize != 4:
        raise RuntimeError("float is not 32 bits here")
    return base64.b64encode(values.tobytes()).decode()
