"""The bodies of requests and answers, with their limits; the OpenAPI page is made from them."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.config import JsonDict

from apps.core.callers import Caller
from apps.core.fields import Between, CodePoints, Schema
from apps.core.messages import ChatRequest, user_message
from apps.core.settings import Settings

LOCAL_MAX_TOKENS = 2000
CLOUD_MAX_TOKENS = 16384
LONGEST_NAME = 200
EXAMPLE: JsonDict = {"prompt": "What is Python?", "temperature": 0.0, "top_p": 0.9, "max_tokens": 100}


class GenerateBody(BaseModel):
    """What POST /generate and POST /local/generate take. Types are strict; unknown fields are ignored."""

    # what "Try it out" sends; without it, it would send a model named "string"
    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra={"examples": [EXAMPLE]})

    prompt: str
    temperature: Annotated[float, Between(0, 2)] = Field(
        0.0, description="0 is greedy and repeatable; higher is more varied"
    )
    top_p: Annotated[float, Between(0, 1)] = Field(0.9, description="Nucleus sampling: the share of probability kept")
    max_tokens: int = 500
    model: Annotated[str, CodePoints(LONGEST_NAME)] | None = Field(None, description="Who answers; see each route")

    def to_chat(self, caller: Caller, model: str | None = None) -> ChatRequest:
        """``model`` where it is not the caller who names it."""
        return ChatRequest(
            messages=user_message(self.prompt),
            model=model or self.model,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            caller=caller,
        )


Body = TypeVar("Body", bound=GenerateBody)


class GenerateAnswer(Schema):
    """The whole answer; the headers say the rest."""

    response: str


def cloud_body(settings: Settings) -> type[GenerateBody]:
    """The body of /generate: its limits and defaults are settings, so the class is made at start."""
    return generate_body(
        "GenerateRequest",
        settings,
        settings.default_temperature,
        settings.default_max_tokens,
        CLOUD_MAX_TOKENS,
        "A name of the upstream's models; left out, DEFAULT_MODEL",
    )


def local_body(settings: Settings) -> type[GenerateBody]:
    """The body of /local/generate: the seed's own defaults."""
    return generate_body(
        "LocalGenerateRequest", settings, 0.0, 500, LOCAL_MAX_TOKENS, "Only the local model's own name, as /ready says"
    )


def generate_body(
    name: str,
    settings: Settings,
    temperature: float,
    max_tokens: int,
    most_tokens: int,
    model: str,
    base: type[Body] = GenerateBody,  # type: ignore[assignment]
) -> type[Body]:
    """A body with its own defaults and limits; ``model`` says what that field means."""
    fields: dict[str, Any] = {
        "prompt": (
            Annotated[str, CodePoints(settings.max_prompt_chars)],
            Field(description="What to answer, in Unicode code points", examples=["What is Python?"]),
        ),
        "temperature": (
            Annotated[float, Between(0, 2)],
            Field(temperature, description=GenerateBody.model_fields["temperature"].description),
        ),
        "max_tokens": (
            Annotated[int, Between(1, most_tokens)],
            Field(max_tokens, description="The longest answer, in tokens"),
        ),
        "model": (
            Annotated[str, CodePoints(LONGEST_NAME)] | None,
            Field(None, description=model),
        ),
    }
    return create_model(name, __base__=base, **fields)
