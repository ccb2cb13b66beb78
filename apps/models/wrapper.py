"""The base of everything that adds behaviour to a ChatModel by wrapping it."""

from collections.abc import AsyncGenerator

from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel, Readiness
from apps.models.revision import revision_of


class WrapperModel:
    """Hands everything on; a wrapper overrides what it changes."""

    def __init__(self, inner: ChatModel) -> None:
        self.inner = inner

    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        return self.inner.stream(request)

    def readiness(self) -> Readiness:
        return self.inner.readiness()

    def revision(self, request: ChatRequest) -> str | None:
        return revision_of(self.inner, request)

    async def start(self) -> None:
        await self.inner.start()

    async def aclose(self) -> None:
        await self.inner.aclose()
