"""An honest small Embedder without a model: a text's vector counts its words, each in the dimension of its hash."""

import asyncio
import hashlib
import math
from collections.abc import Sequence

from apps.core.errors import InvalidValue
from apps.core.ports import Readiness


class HashingEmbedder:
    """Implements Embedder. ``seconds`` is what a call takes."""

    longest = 256

    def __init__(self, name: str = "hashing", dimensions: int = 64, seconds: float = 0) -> None:
        self.name = name
        self.dimensions = dimensions
        self._seconds = seconds

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        for index, count in enumerate(await self.count_tokens(texts)):
            if count > self.longest:
                raise InvalidValue("Too long", field="input", details={"index": index})
        await asyncio.sleep(self._seconds)
        return [self._vector(text) for text in texts]

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def readiness(self) -> Readiness:
        return Readiness(self.name, "ready", "always")

    async def aclose(self) -> None:
        """Nothing to end."""

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self.dimensions
        for word in text.lower().split():
            digest = hashlib.sha256(word.strip(".,;:!?").encode("utf-8", "surrogatepass")).digest()
            vector[int.from_bytes(digest[:4]) % self.dimensions] += 1
        length = math.sqrt(sum(value * value for value in vector)) or 1.0
        return [value / length for value in vector]
