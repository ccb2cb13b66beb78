"""The progress of a job as server-sent events: ``progress`` whenever it has changed, then ``done`` or ``error``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request

from apps.api.src.rag.shown import shown_job
from apps.api.src.sse import EventStream, event
from apps.api.src.streamed import StreamedResponse
from apps.core.errors import AppError, InternalError, error_classes
from apps.rag.records import Job

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
                yield event("progress", shown)
            elif job.status == "done":
                yield event("done", shown)
            else:
                yield FRAMING.error(_error_of(job, shown))


def _error_of(job: Job, shown: dict[str, object]) -> AppError:
    failed = next((file for file in job.files if file.error is not None), None)
    told = dict(failed.error or {}) if failed is not None else {}
    kind = next((kind for kind in error_classes() if kind.code == told.get("code")), InternalError)
    where = f"{failed.name}: " if failed is not None else ""
    return kind(where + str(told.get("message", "The job failed")), field=told.get("field"), details={"job": shown})
