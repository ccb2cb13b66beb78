"""Revisions: what a model's answers depend on besides the request. Another revision, another answer.

The models that can tell have a ``revision``; of the others nothing is known, so their answers are never cached.

The base of everything that adds behaviour to a ChatModel by wrapping it.
"""

import hashlib
from collections.abc import AsyncGenerator
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
