"""The bodies of Anthropic's API as the OpenAPI page shows them. Nothing is validated by these."""

from typing import Any

from pydantic import ConfigDict, Field

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
