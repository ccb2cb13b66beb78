"""Embedders and rerankers at an upstream: OpenAI's embeddings, and the rerank API of Cohere and Jina."""

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apps.core.errors import InvalidValue, UpstreamError
from apps.core.ports import Readiness, Reranked, State
from apps.core.process import import_once
from apps.core.settings import Settings
from apps.models.openai_chat import unknown_shape
from apps.models.upstream_errors import KEY_VARIABLE, missing_key, needs_key, not_configured
from apps.transport.client import Connections

if TYPE_CHECKING:
    from apps.models.openai_client import OpenAIClient

MOST_TEXTS = 256
"""In one call to the upstream."""
# what OpenAI's own models take
LONGEST = 8191


class OpenAIEmbedder:
    """Implements Embedder. The upstream's tokenizer is not known here, so a text's tokens are taken to be as many as
    its bytes: never fewer than they are, and passages are far below the limit."""

    longest = LONGEST

    def __init__(self, settings: Settings, connections: Connections | None = None) -> None:
        self.name = settings.rag_embedding_model
        self.dimensions = settings.rag_embedding_dimensions
        self._settings = settings
        self._key = settings.openai_api_key.get_secret_value()
        variable = KEY_VARIABLE if needs_key(settings.openai_base_url) else ""
        self._missing = missing_key(settings.openai_base_url, self._key, variable)
        self._own = Connections() if connections is None else None
        self._connections = connections or self._own or Connections()
        self._client: OpenAIClient | None = None
        self._opening = asyncio.Lock()

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        for index, tokens in enumerate(await self.count_tokens(texts)):
            if tokens > self.longest:
                details = {"index": index, "bytes": tokens, "max": self.longest}
                raise InvalidValue(
                    f"{self.name} takes at most {self.longest} bytes a text", field="input", details=details
                )
        client = await self._ready()
        vectors: list[list[float]] = []
        for first in range(0, len(texts), MOST_TEXTS):
            part = list(texts[first : first + MOST_TEXTS])
            answer = await client.embeddings({"model": self.name, "input": part, "encoding_format": "float"})
            vectors += _vectors(answer, len(part), self.dimensions)
        return vectors

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.encode("utf-8", "surrogatepass")) for text in texts]

    def readiness(self) -> Readiness:
        details = {"dimensions": self.dimensions, "longest_input": self.longest}
        state: State = "not_configured" if self._missing else "ready"
        return Readiness(self.name, state, self._missing or "configured", details)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        if self._own is not None:
            await self._own.aclose()

    async def _ready(self) -> "OpenAIClient":
        if self._missing:
            raise not_configured(self._missing)
        async with self._opening:
            if self._client is None:
                # importing the SDK takes a second
                self._client = await asyncio.to_thread(self._open)
        return self._client

    def _open(self) -> "OpenAIClient":
        return _open_client(self._settings.openai_base_url, self._key, self._settings, self._connections)


def _vectors(answer: dict[str, Any], expected: int, dimensions: int) -> list[list[float]]:
    """In the order of the texts, L2-normalised. Raises UpstreamError where they are not what was asked for."""
    try:
        entries = sorted(answer["data"], key=lambda entry: int(entry["index"]))
        vectors = [[float(value) for value in entry["embedding"]] for entry in entries]
        lengths = [math.sqrt(sum(value * value for value in vector)) for vector in vectors]
    except (KeyError, TypeError, ValueError):
        raise unknown_shape() from None
    if len(vectors) != expected or not all(0 < length < math.inf for length in lengths):
        raise unknown_shape()
    if any(len(vector) != dimensions for vector in vectors):
        raise UpstreamError(
            f"The embedding model has {len(vectors[0])} dimensions, and RAG_EMBEDDING_DIMENSIONS says {dimensions}",
            upstream_status=200,
        )
    return [[value / length for value in vector] for vector, length in zip(vectors, lengths, strict=True)]


class UpstreamReranker:
    """Implements Reranker: POST {RERANK_BASE_URL}/rerank."""

    def __init__(self, settings: Settings, connections: Connections | None = None) -> None:
        self.name = settings.rerank_model
        self._settings = settings
        self._own = Connections() if connections is None else None
        self._connections = connections or self._own or Connections()
        self._client: OpenAIClient | None = None
        self._opening = asyncio.Lock()

    async def rerank(self, query: str, texts: Sequence[str]) -> Reranked:
        """Raises errors of apps.core.errors."""
        body = {"model": self.name, "query": query, "documents": list(texts), "top_n": len(texts)}
        answer = await (await self._ready()).rerank({**body, "return_documents": False})
        return Reranked(self.name, _scores(answer, len(texts)), _tokens(answer))

    def readiness(self) -> Readiness:
        return Readiness(self.name, "ready", "configured")

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        if self._own is not None:
            await self._own.aclose()

    async def _ready(self) -> "OpenAIClient":
        async with self._opening:
            if self._client is None:
                # importing the SDK takes a second
                self._client = await asyncio.to_thread(self._open)
        return self._client

    def _open(self) -> "OpenAIClient":
        s = self._settings
        return _open_client(s.rerank_base_url, s.rerank_api_key.get_secret_value(), s, self._connections)


def _scores(answer: dict[str, Any], expected: int) -> list[float]:
    """By index. Raises UpstreamError where one is missing, twice there, or no number."""
    try:
        found = {int(one["index"]): float(one["relevance_score"]) for one in answer["results"]}
        scores = [found[index] for index in range(expected)]
    except (KeyError, TypeError, ValueError):
        scores = []
    if len(scores) != expected or not all(map(math.isfinite, scores)):
        raise unknown_shape()
    return scores


def _tokens(answer: dict[str, Any]) -> int | None:
    usage = answer.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and total >= 0 else None


def _open_client(base_url: str, key: str, settings: Settings, connections: Connections) -> "OpenAIClient":
    """Blocks for a second at its first use: it imports the SDK."""
    timeouts = (settings.connect_timeout, settings.read_timeout, settings.write_timeout)
    return import_once(load_client).open(base_url, key, timeouts, connections)


def load_client() -> "type[OpenAIClient]":
    from apps.models.openai_client import OpenAIClient

    return OpenAIClient
