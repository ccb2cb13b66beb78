"""A model under the name that records know its provider by: each call of it is an attempt."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel
from apps.models.wrapper import WrapperModel


class AskedModel(WrapperModel):
    """Stands inside of what tries again, and tells the request's record how often it was asked, and that it answers."""

    def __init__(self, inner: ChatModel, provider: str) -> None:
        super().__init__(inner)
        self._provider = provider

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        record = request.record
        if record is not None:
            record.attempts += 1
        async with aclosing(self.inner.stream(request)) as deltas:
            async for delta in deltas:
                if record is not None:
                    record.provider = self._provider
                yield delta
