"""Embeddings of any OpenAI-compatible upstream, as an Embedder."""

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apps.core.errors import InvalidValue, ModelUnavailable, UpstreamError
from apps.core.ports import Readiness
from apps.core.settings import Settings
from apps.models.openai_model import NO_KEY, OPENAI_URL

if TYPE_CHECKING:
    from apps.models.openai_transport import OpenAITransport

MOST_TEXTS = 256
"""In one call to the upstream."""
# what OpenAI's own models take
LONGEST = 8191


class OpenAIEmbedder:
    """Implements Embedder. The upstream's tokenizer is not known here, so a text's tokens are taken to be as many as
    its bytes: never fewer than they are, and passages are far below the limit."""

    longest = LONGEST

    def __init__(self, settings: Settings) -> None:
        self.name = settings.rag_embedding_model
        self.dimensions = settings.rag_embedding_dimensions
        self._settings = settings
        self._key = settings.openai_api_key.get_secret_value()
        self._configured = bool(self._key) or settings.openai_base_url.rstrip("/") != OPENAI_URL
        self._transport: OpenAITransport | None = None
        self._opening = asyncio.Lock()

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        for index, tokens in enumerate(await self.count_tokens(texts)):
            if tokens > self.longest:
                details = {"index": index, "bytes": tokens, "max": self.longest}
                raise InvalidValue(
                    f"{self.name} takes at most {self.longest} bytes a text", field="input", details=details
                )
        transport = await self._ready()
        vectors: list[list[float]] = []
        for first in range(0, len(texts), MOST_TEXTS):
            part = list(texts[first : first + MOST_TEXTS])
            answer = await transport.embeddings({"model": self.name, "input": part, "encoding_format": "float"})
            vectors += _vectors(answer, len(part), self.dimensions)
        return vectors

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.encode("utf-8", "surrogatepass")) for text in texts]

    def readiness(self) -> Readiness:
        details = {"dimensions": self.dimensions, "longest_input": self.longest}
        if self._configured:
            return Readiness(self.name, "ready", "configured", details)
        return Readiness(self.name, "not_configured", NO_KEY, details)

    async def aclose(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()

    async def _ready(self) -> "OpenAITransport":
        if not self._configured:
            raise ModelUnavailable(f"The embedding model is not configured: {NO_KEY}", retry_after=60)
        async with self._opening:
            if self._transport is None:
                # importing the SDK takes a second
                self._transport = await asyncio.to_thread(self._open)
        return self._transport

    def _open(self) -> "OpenAITransport":
        from apps.models.openai_transport import OpenAITransport, Timeouts

        s = self._settings
        timeouts = Timeouts(s.connect_timeout, s.read_timeout, s.write_timeout)
        return OpenAITransport(base_url=s.openai_base_url, api_key=self._key, timeouts=timeouts)


def _vectors(answer: dict[str, Any], expected: int, dimensions: int) -> list[list[float]]:
    """In the order of the texts, L2-normalised. Raises UpstreamError where they are not what was asked for."""
    try:
        entries = sorted(answer["data"], key=lambda entry: int(entry["index"]))
        vectors = [[float(value) for value in entry["embedding"]] for entry in entries]
        lengths = [math.sqrt(sum(value * value for value in vector)) for vector in vectors]
    except (KeyError, TypeError, ValueError):
        raise UpstreamError("The upstream's answer has an unknown shape", details={"upstream_status": 200}) from None
    if len(vectors) != expected or not all(0 < length < math.inf for length in lengths):
        raise UpstreamError("The upstream's answer has an unknown shape", details={"upstream_status": 200})
    if any(len(vector) != dimensions for vector in vectors):
        raise UpstreamError(
            f"The embedding model has {len(vectors[0])} dimensions, and RAG_EMBEDDING_DIMENSIONS says {dimensions}",
            details={"upstream_status": 200},
        )
    return [[value / length for value in vector] for vector, length in zip(vectors, lengths, strict=True)]
