"""What the OpenAPI page says of /rag beyond the models: errors, uploads and streams."""

from typing import Any

from apps.api.src.http.openapi import Responses, error_responses, generate_responses
from apps.api.src.rag.schemas import DOCUMENT, DocumentBody
from apps.core import errors

READ = (
    errors.InvalidValue,
    errors.InvalidType,
    errors.Unauthorized,
    errors.Forbidden,
    errors.NotFound,
    errors.RateLimitExceeded,
    errors.ModelUnavailable,
)
WRITE = (
    *READ,
    errors.InvalidJson,
    errors.MissingRequiredField,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.Conflict,
    errors.Overloaded,
    errors.NoStorage,
)
DELETE = (*READ, errors.NoStorage)
SEARCH = (
    *READ,
    errors.InvalidJson,
    errors.MissingRequiredField,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.Overloaded,
)
CITATION = {
    "number": 1,
    "document": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "name": "leave.md",
    "page": None,
    "heading": ["Leave"],
    "span": [0, 37],
    "score": 0.0328,
    "quote": "# Leave\n\nEverybody has 30 days.",
}
JOB_EVENTS = (
    'event: progress\ndata: {"id": "0b8e", "status": "running", "percent": 40.0}\n\n'
    'event: done\ndata: {"id": "0b8e", "status": "done", "percent": 100.0}\n\n'
)
# the body of an upload is read by the route itself: FastAPI would not know of it
FORMATS = "PDF, DOCX, PPTX, XLSX, ODT, ODS, RTF, EPUB, HTML, Markdown, text, CSV, e-mail, image"
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "additionalProperties": False,
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": FORMATS,
                        },
                        "metadata": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": "A JSON object, for all the files",
                            "default": "{}",
                            "example": '{"year": 2026}',
                        },
                    },
                }
            },
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"$ref": "#/components/schemas/DocumentBody"},
                        {"type": "array", "items": {"$ref": "#/components/schemas/DocumentBody"}},
                    ]
                },
                "example": DOCUMENT,
            },
        },
    }
}


def answer_responses() -> Responses:
    """Of /generate: the three forms of an answer, with the citations in two of them."""
    responses = generate_responses(
        errors.RateLimitExceeded,
        errors.InternalError,
        errors.UpstreamError,
        errors.ModelUnavailable,
        errors.Overloaded,
        errors.Timeout,
    )
    content = responses[200]["content"]
    content["application/json"]["example"] = {"response": "30 days [1].", "citations": [CITATION]}
    stream = content["text/event-stream"]
    stream["itemSchema"] = {
        **stream["itemSchema"],
        "properties": {
            **stream["itemSchema"]["properties"],
            "event": {"type": "string", "enum": ["citations", "message", "delta", "done", "error"]},
        },
    }
    stream["example"] = "event: citations\ndata: [" + '{"number": 1, "name": "leave.md"}' + "]\n\n" + stream["example"]
    return responses


def document_rag(page: dict[str, Any]) -> dict[str, Any]:
    """The page with the schema of a document as JSON, which no route of FastAPI's own reads."""
    page["components"]["schemas"][DocumentBody.__name__] = DocumentBody.model_json_schema()
    return page


def job_responses() -> Responses:
    event_stream = {"schema": {"type": "string"}, "example": JOB_EVENTS}
    return {
        200: {
            "description": "JSON, or server-sent events: `progress`, then exactly one `done` or `error`",
            "content": {"text/event-stream": event_stream},
        },
        **error_responses(*READ),
    }
