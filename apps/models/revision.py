"""Revisions: what a model's answers depend on besides the request. Another revision, another answer.

The models that can tell have a ``revision``; of the others nothing is known, so their answers are never cached.
"""

import hashlib
from typing import Protocol, runtime_checkable

from apps.core.messages import ChatRequest


@runtime_checkable
class Revised(Protocol):
    """A ChatModel that knows its revision for a request; None where it does not know it now."""

    def revision(self, request: ChatRequest) -> str | None: ...


def revision_of(model: object, request: ChatRequest) -> str | None:
    return model.revision(request) if isinstance(model, Revised) else None


def digest_of(*words: object) -> str:
    """A revision that says nothing of what it was made from: no address, no folder."""
    return hashlib.sha256("\n".join(map(repr, words)).encode()).hexdigest()
