"""Generate: the bodies of requests and answers, and an answer as JSON, as server-sent events, or as bare text.

The bodies have their limits; the OpenAPI page is made from them. The routes themselves stand in routes/.
"""

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.config import JsonDict
from starlette.responses import JSONResponse, Response

from apps.api.src.http.request import cache_control, cache_headers, cache_use
from apps.api.src.http.shutdown import Shutdown, guarded
from apps.api.src.http.streaming import EventStream, Framing, PlainText, StreamedResponse, raw
from apps.api.src.observability.request_line import note_messages
from apps.cache.front import CachedModel
from apps.core.callers import Caller
from apps.core.deltas import Delta, Forwarded, citations_json, collect
from apps.core.errors import UpstreamError
from apps.core.fields import Between, CodePoints, Schema
from apps.core.messages import ChatRequest, user_message
from apps.core.settings import Settings
from apps.models.metering import MeteredModel

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


UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


async def answer(request: Request, model: MeteredModel | CachedModel, chat: ChatRequest, *, stream: bool) -> Response:
    """Ask the model; the answer is collected into JSON, or streamed in the framing that Accept asks for."""
    shutdown: Shutdown = request.app.state.shutdown
    note_messages(request, chat.messages)
    chat = replace(chat, streamed=stream)
    record = model.new_record(chat)
    control = cache_control(request) if request.app.state.services.front is not None else chat.cache
    deltas = model.stream(replace(chat, cache=control, record=record))

    def late() -> dict[str, str]:
        cached = isinstance(model, CachedModel)
        return cache_headers(cache_use(record), record.age, record.score) if cached else {}

    if stream:
        return _streamed(deltas, framing_for(request.headers.get("accept", "")), shutdown, late)
    async with aclosing(deltas):
        whole = await guarded(collect(deltas), request.receive, shutdown)
    body: dict[str, Any] = {"response": whole.text}
    if whole.citations is not None:
        body["citations"] = citations_json(whole.citations)
    return JSONResponse(body, headers={**model_header(whole.model), **late()})


def framing_for(accept: str) -> Framing:
    """Server-sent events, unless the caller asks for plain text and not for them."""
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return PlainText() if "text/plain" in kinds and "text/event-stream" not in kinds else EventStream()


def model_header(model: str | None) -> dict[str, str]:
    """X-Model; what a header cannot hold becomes an underscore."""
    return {"X-Model": UNPRINTABLE.sub("_", model)} if model else {}


def _streamed(
    deltas: AsyncGenerator[Delta, None], framing: Framing, shutdown: Shutdown, late: Callable[[], dict[str, str]]
) -> StreamedResponse:
    """``late`` are headers that are known when the first frame is there."""
    headers: dict[str, str] = {}
    return StreamedResponse(
        _framed(deltas, framing, headers),
        media_type=framing.media_type,
        ping=framing.ping,
        error_frame=framing.error,
        headers=lambda: raw({**headers, **late()}),
        shutdown=shutdown,
    )


async def _framed(
    deltas: AsyncGenerator[Delta, None], framing: Framing, headers: dict[str, str]
) -> AsyncGenerator[bytes, None]:
    """A frame a delta that has text, then the terminal one; ``headers`` learns the model from the first delta."""
    last = Delta()
    async with Forwarded(deltas):
        async for delta in deltas:
            last = Delta(
                finish_reason=delta.finish_reason or last.finish_reason,
                usage=delta.usage or last.usage,
                model=delta.model or last.model,
            )
            headers.update(model_header(last.model))
            if delta.citations is not None and (frame := framing.citations(delta.citations)):
                yield frame
            if delta.text:
                yield framing.delta(delta.text)
    if last.finish_reason is None:
        raise UpstreamError("The model's answer was cut off before its end")
    yield framing.done(last.finish_reason, last.model, last.usage)
