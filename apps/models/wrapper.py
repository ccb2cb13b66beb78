"""Revisions: what a model's answers depend on besides the request. Another revision, another answer.

The models that can tell have a ``revision``; of the others nothing is known, so their answers are never cached.

The base of everything that adds behaviour to a ChatModel by wrapping it.

A model under the name that records know its provider by: each call of it is an attempt.
"""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol, runtime_checkable

from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel, Readiness


@runtime_checkable
class Revised(Protocol):
    """A ChatModel that knows its revision for a request; None where it does not know it now."""

    def revision(self, request: ChatRequest) -> str | None: ...


def revision_of(model: object, request: ChatRequest) -> str | None:
    return model.revision(request) if isinstance(model, Revised) else None


def digest_of(*words: object) -> str:
    """A revision that says nothing of what it was made from: no address, no folder."""
    return hashlib.sha256("\n".join(map(repr, words)).encode()).hexdigest()


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
