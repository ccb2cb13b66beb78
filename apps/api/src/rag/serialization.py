"""The library's values as the answers of /rag show them.

The progress of a job as server-sent events: ``progress`` whenever it has changed, then ``done`` or ``error``.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastapi import Request

from apps.api.src.http.streaming import EventStream, StreamedResponse, event_frame
from apps.api.src.rag.schemas import CollectionAnswer, DocumentAnswer, FileAnswer, JobAnswer, PassageAnswer
from apps.core.errors import AppError, InternalError, error_classes
from apps.rag.answering import Place
from apps.rag.records import Collection, Document, Job, Passage, pace_of


def shown_collection(place: Place, collection: Collection) -> CollectionAnswer:
    return CollectionAnswer(
        name=collection.name,
        shared=place.shared,
        model=place.model,
        embedding_model=collection.embedding_model,
        dimensions=collection.dimensions,
        documents=collection.documents,
        passages=collection.passages,
    )


def shown_document(document: Document) -> DocumentAnswer:
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


def shown_passages(passages: Sequence[Passage]) -> list[PassageAnswer]:
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


def shown_job(job: Job) -> JobAnswer:
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
            shown = shown_job(job).model_dump()
            if not job.finished:
                yield event_frame("progress", shown)
            elif job.status == "done":
                yield event_frame("done", shown)
            else:
                yield FRAMING.error(_error_of(job, shown))


def _error_of(job: Job, shown: dict[str, object]) -> AppError:
    failed = next((file for file in job.files if file.error is not None), None)
    told = dict(failed.error or {}) if failed is not None else {}
    kind = next((kind for kind in error_classes() if kind.code == told.get("code")), InternalError)
    where = f"{failed.name}: " if failed is not None else ""
    return kind(where + str(told.get("message", "The job failed")), field=told.get("field"), details={"job": shown})
