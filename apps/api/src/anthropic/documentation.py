"""What the OpenAPI page says of Anthropic's routes: bodies, answers and errors, with an example of each.

Nothing is validated by the bodies' classes.
"""

from typing import Any

from pydantic import ConfigDict, Field

from apps.api.src.anthropic.request import IGNORED
from apps.api.src.http.error_shapes import anthropic_error, anthropic_status
from apps.api.src.http.openapi import Responses, error_responses
from apps.api.src.v1.documentation import ERRORS, posted
from apps.core.fields import Schema

JsonObject = dict[str, Any]
MODEL = "A name of GET /v1/models, or any that the default provider knows"


class _Body(Schema):
    model_config = ConfigDict(extra="allow")

    model: str = Field(description=MODEL)
    messages: list[JsonObject] = Field(
        description="Turns: objects with role and content (text or blocks)", min_length=1
    )
    system: str | list[JsonObject] | None = Field(None, description="The system prompt, as text or blocks of text")
    tools: list[JsonObject] | None = Field(None, description="Tools of the caller's own: name, input_schema")
    tool_choice: JsonObject | None = Field(None, description="type: auto, any, tool (with its name) or none")


class MessagesBody(_Body):
    max_tokens: int = Field(ge=1, description="Most tokens of the answer")
    stream: bool = Field(False, description="Answer with server-sent events, ended by message_stop")
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    stop_sequences: list[str] | None = None


class CountTokensBody(_Body):
    pass


SHAPE = "Anthropic's own shape"
SCHEMA = "AnthropicError"
ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message", "code", "status", "field", "details"],
            "properties": {
                "type": {"type": "string", "description": "Anthropic's, as invalid_request_error"},
                "message": {"type": "string"},
                "code": {"type": "string", "description": "The envelope's code"},
                "status": {"type": "integer"},
                "field": {"type": ["string", "null"]},
                "details": {"type": "object"},
            },
        },
    },
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "gpt-4o-mini",
    "content": [{"type": "text", "text": "A language."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 9,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 2,
    },
}
STREAM = (
    'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, '
    '"delta": {"type": "text_delta", "text": "A"}}\n\nevent: message_stop\ndata: {"type": "message_stop"}\n\n'
)
CALL = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is Python?"}]}


def document_anthropic(page: dict[str, Any]) -> dict[str, Any]:
    """The page with Anthropic's routes in it."""
    page["components"]["schemas"][SCHEMA] = ERROR
    ends = anthropic_errors()
    messages = posted(MessagesBody, {**CALL, "max_tokens": 50}, MESSAGE, STREAM, SHAPE, ends)
    messages["description"] = (
        "Anthropic's messages; made from chat completions where a target has none of its own. Fields that such a target"
        " has no word for are refused by name, but for these, which are ignored: "
        + "; ".join(f"`{name}` ({why})" for name, why in IGNORED.items())
    )
    page["paths"]["/v1/messages"]["post"] |= messages
    counting = posted(CountTokensBody, CALL, {"input_tokens": 9}, None, SHAPE, ends)
    page["paths"]["/v1/messages/count_tokens"]["post"] |= counting
    return page


def anthropic_errors() -> Responses:
    """`error_responses` in Anthropic's shape."""
    reference = {"$ref": f"#/components/schemas/{SCHEMA}"}
    return error_responses(*ERRORS, status=anthropic_status, body=anthropic_error, schema=reference)
