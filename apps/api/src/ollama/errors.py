"""Errors in Ollama's shape: the message alone, and the envelope's other keys beside it."""

from typing import Any

from apps.api.src.v1.errors import openai_status
from apps.core.errors import AppError, UpstreamRejected

ollama_status = openai_status


def ollama_error(error: AppError) -> dict[str, Any]:
    """The body of an error on Ollama's routes."""
    told = error.envelope()["error"] | {"status": openai_status(error)}
    message = told.pop("message")
    return {"error": error.rejection.message if isinstance(error, UpstreamRejected) else message, **told}
