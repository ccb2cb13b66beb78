"""The bodies and answers of /rag, which make the OpenAPI page, and the library's values as the answers show them.

The progress of a job is sent as server-sent events: ``progress`` whenever it has changed, then ``done`` or ``error``.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model
from pydantic.config import JsonDict

from apps.api.src.generate import CLOUD_MAX_TOKENS, GenerateAnswer, GenerateBody, generate_body
from apps.api.src.http.streaming import EventStream, StreamedResponse
from apps.core.errors import AppError, InternalError, error_classes
from apps.core.fields import Between, CodePoints, Schema
from apps.core.settings import Settings
from apps.models.event_stream import json_event
from apps.rag.answering import TOP_K, Place
from apps.rag.records import Collection, Document, Job, Kind, Passage, pace_of

MOST_PASSAGES = 100
LONGEST_FILE_NAME = 255
QUERY: JsonDict = {"query": "How many days of leave are there?", "top_k": 5}
GENERATE: JsonDict = {"prompt": "How many days of leave are there?", "max_tokens": 100}
DOCUMENT: JsonDict = {"name": "leave.md", "text": "# Leave\n\nEverybody has 30 days.", "metadata": {"year": 2026}}
FILTER = 'Which passages count: {"year": 2026}, {"year": {"$gte": 2020}}, $and, $or, $not; see docs/documents.md'

# the library checks the values, which a form has too
SCALARS = WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}})
Metadata = dict[str, str | int | float | bool]
TopK = Annotated[int, Between(1, MOST_PASSAGES)]


class DocumentBody(Schema):
    """A document as text."""

    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra={"examples": [DOCUMENT]})

    name: Annotated[str, CodePoints(LONGEST_FILE_NAME)] = Field(description="Its ending says what it is; never a path")
    text: str = Field(description="What a file of that name would hold")
    metadata: Annotated[dict[str, Any], SCALARS] = Field(
        default_factory=dict, description="What filters compare: strings, numbers, booleans"
    )


class QueryBody(BaseModel):
    """What /query takes. Types are strict; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra={"examples": [QUERY]})

    query: str
    top_k: TopK = Field(TOP_K, description="The most passages to find")
    filter: dict[str, Any] | None = Field(None, description=FILTER)


class RagGenerateBody(GenerateBody):
    """What /generate of a collection takes."""

    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra={"examples": [GENERATE]})

    top_k: TopK = Field(TOP_K, description="The most passages to answer from")
    filter: dict[str, Any] | None = Field(None, description=FILTER)


def query_body(settings: Settings) -> type[QueryBody]:
    """The longest query is a setting, so the class is made at start."""
    query = Annotated[str, CodePoints(settings.max_prompt_chars)]
    return create_model(
        "RagQuery", __base__=QueryBody, query=(query, Field(description="What to search for, in Unicode code points"))
    )


def rag_generate_body(settings: Settings) -> type[RagGenerateBody]:
    writer = "Who writes: a name of GET /v1/models or of the upstream; left out, RAG_MODEL or the local model"
    return generate_body("RagGenerateRequest", settings, 0.0, 500, CLOUD_MAX_TOKENS, writer, RagGenerateBody)


class CitationAnswer(Schema):
    """A passage that the answer was made from."""

    number: int = Field(description="How the answer's text may refer to it: [1]")
    document: str = Field(description="The document's id")
    name: str = Field(description="The document's file name")
    page: int | None
    heading: list[str] = Field(description="The headings that it stands under, the outermost first")
    span: tuple[int, int] = Field(description="From and to, in Unicode code points of the document's text")
    score: float
    quote: str = Field(description="The document's own words there")
    support: tuple[int, int] | None = Field(None, description="Span of the sentence that supports the answer")


class RagAnswer(GenerateAnswer):
    """The whole answer; the headers say the rest."""

    citations: list[CitationAnswer]


class PassageAnswer(Schema):
    """A passage that a search found, or one of a document's."""

    id: str
    document: str
    name: str
    page: int | None
    heading: list[str]
    span: tuple[int, int]
    text: str
    metadata: Metadata
    score: float = Field(
        description="Orders the result: the fused ranks of both halves, and 1 more where the whole query stands in it"
    )
    vector_score: float | None = Field(description="Cosine of query and passage")
    text_score: float | None = Field(description="BM25; null where the words were not found")
    relevance: float | None = Field(description="0 to 1: how likely it says anything about the question; null in lists")


class Passages(Schema):
    passages: list[PassageAnswer]
    next: int | None = Field(None, description="The `after` of the next page; null on the last one")


class DocumentTextAnswer(Schema):
    """What was read of a document: the text that spans point into."""

    document: str = Field(description="The document's id")
    name: str
    text: str


class CollectionAnswer(Schema):
    name: str
    shared: bool
    model: str = Field(description="Its name on /v1/chat/completions")
    embedding_model: str
    dimensions: int
    documents: int
    passages: int


class Collections(Schema):
    collections: list[CollectionAnswer]


class DocumentAnswer(Schema):
    id: str = Field(description="SHA-256 of its bytes")
    name: str
    names: list[str] = Field(description="All the names that these bytes came under")
    kind: Kind
    bytes: int
    pages: int
    passages: int
    metadata: Metadata
    ingested: float = Field(description="Unix time")


class Documents(Schema):
    documents: list[DocumentAnswer]
    next: str | None = Field(None, description="The `after` of the next page; null on the last one")


class Accepted(Schema):
    job: str = Field(description="GET /rag/jobs/{id} tells how far it is")
    collection: str
    accepted: list[str] = Field(description="The names of the files")


class FileAnswer(Schema):
    name: str
    document: str
    status: Literal["queued", "running", "done", "failed"]
    pages: int
    passages: int
    error: dict[str, Any] | None = Field(description="As in the envelope: code, message, status, field, details")
    warnings: list[str] = Field(description="What of the document was not read: pictures, pages, attachments")


class JobAnswer(Schema):
    id: str
    collection: str
    status: Literal["queued", "running", "done", "failed"] = Field(
        description="failed: at least one file failed; the others are there all the same"
    )
    percent: float
    pages: int
    passages: int
    files_done: int = Field(description="Done or failed")
    files_left: int
    seconds: float = Field(description="Since the first file was begun")
    seconds_left: float | None = Field(description="An estimate; null where nothing is known yet")
    files_per_second: float
    pages_per_second: float
    passages_per_second: float
    files: list[FileAnswer]
    created: float = Field(description="Unix time")


def collection_json(place: Place, collection: Collection) -> CollectionAnswer:
    return CollectionAnswer(
        name=collection.name,
        shared=place.shared,
        model=place.model,
        embedding_model=collection.embedding_model,
        dimensions=collection.dimensions,
        documents=collection.documents,
        passages=collection.passages,
    )


def document_json(document: Document) -> DocumentAnswer:
    return DocumentAnswer(
        id=document.id,
        name=document.name,
        names=list(document.names),
        kind=document.kind,
        bytes=document.bytes,
        pages=document.pages,
        passages=document.passages,
        metadata=dict(document.metadata),
        ingested=document.ingested,
    )


def passages_json(passages: Sequence[Passage]) -> list[PassageAnswer]:
    return [
        PassageAnswer(
            id=passage.id,
            document=passage.document,
            name=passage.name,
            page=passage.page,
            heading=list(passage.headings),
            span=(passage.start, passage.end),
            text=passage.text,
            metadata=dict(passage.metadata),
            score=passage.score,
            vector_score=passage.vector_score,
            text_score=passage.text_score,
            relevance=passage.relevance,
        )
        for passage in passages
    ]


def job_json(job: Job) -> JobAnswer:
    pace = pace_of(job, time.time())
    return JobAnswer(
        id=job.id,
        collection=job.collection,
        status=job.status,
        percent=round(job.percent, 1),
        pages=job.pages,
        passages=job.passages,
        files_done=pace.files_done,
        files_left=pace.files_left,
        seconds=round(pace.seconds, 1),
        seconds_left=None if pace.seconds_left is None else round(pace.seconds_left, 1),
        files_per_second=pace.per_second(pace.files_done),
        pages_per_second=pace.per_second(job.pages),
        passages_per_second=pace.per_second(job.passages),
        files=[
            FileAnswer(
                name=file.name,
                document=file.document,
                status=file.status,
                pages=file.pages,
                passages=file.passages,
                error=dict(file.error) if file.error is not None else None,
                warnings=list(file.warnings),
            )
            for file in job.files
        ],
        created=job.created,
    )


FRAMING = EventStream()


def wants_events(request: Request, stream: bool) -> bool:
    """By the query, or because the client accepts nothing else."""
    return stream or request.headers.get("accept", "").partition(";")[0].strip().lower() == FRAMING.media_type


def streamed_job(request: Request, job: AsyncGenerator[Job, None]) -> StreamedResponse:
    return StreamedResponse(
        _frames(job),
        media_type=FRAMING.media_type,
        ping=FRAMING.ping,
        error_frame=FRAMING.error,
        headers=list,
        shutdown=request.app.state.shutdown,
    )


async def _frames(states: AsyncGenerator[Job, None]) -> AsyncGenerator[bytes, None]:
    """A job one of whose files failed ends with that file's error, and all of the job in its details."""
    async with aclosing(states):
        async for job in states:
            shown = job_json(job).model_dump()
            if not job.finished:
                yield json_event(shown, "progress")
            elif job.status == "done":
                yield json_event(shown, "done")
            else:
                yield FRAMING.error(_error_of(job, shown))


def _error_of(job: Job, shown: dict[str, object]) -> AppError:
    failed = next((file for file in job.files if file.error is not None), None)
    fault = dict(failed.error or {}) if failed is not None else {}
    kind = next((kind for kind in error_classes() if kind.code == fault.get("code")), InternalError)
    where = f"{failed.name}: " if failed is not None else ""
    return kind(where + str(fault.get("message", "The job failed")), field=fault.get("field"), details={"job": shown})
