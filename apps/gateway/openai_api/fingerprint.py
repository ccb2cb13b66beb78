"""The ``system_fingerprint`` of an answer: the same as long as the same model would answer the same."""

from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel, digest_of, revision_of
from apps.core.version import VERSION

NOTHING = ChatRequest(())
SHOWN = 12


def fingerprint(chat: ChatModel) -> str | None:
    """Of the model's revision and this version of the service; None where the model does not tell its revision."""
    revision = revision_of(chat, NOTHING)
    return None if revision is None else f"fp_{digest_of(revision, VERSION)[:SHOWN]}"
