"""RERANK_MODEL at an upstream that speaks Cohere's or Jina's rerank API, as a Reranker."""

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apps.core.ports import Readiness, Reranked
from apps.core.settings import Settings
from apps.models.tool_call_reader import unknown_shape
from apps.transport.pool import Connections

if TYPE_CHECKING:
    from apps.models.openai_client import OpenAIClient


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
        import httpx2 as httpx

        from apps.models.openai_client import OpenAIClient

        s = self._settings
        timeout = httpx.Timeout(connect=s.connect_timeout, read=s.read_timeout, write=s.write_timeout, pool=None)
        return OpenAIClient(s.rerank_base_url, s.rerank_api_key.get_secret_value(), timeout, self._connections)


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
    told = usage.get("total_tokens") if isinstance(usage, dict) else None
    return told if isinstance(told, int) and told >= 0 else None
