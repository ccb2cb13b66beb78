"""What the library may be given besides an Embedder: none of it is shipped here."""

from collections.abc import Sequence
from typing import Protocol

from apps.rag.records import Passage


class Reranker(Protocol):
    """A cross-encoder: reads the query and each passage together. More is better; any scale."""

    async def rerank(self, query: str, passages: Sequence[Passage]) -> list[float]: ...
