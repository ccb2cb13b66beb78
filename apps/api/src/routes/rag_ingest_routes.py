"""Documents in: submissions, and the jobs that ingest them."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from apps.api.src.caller import caller_of
from apps.api.src.limits import RateLimits
from apps.api.src.openapi import error_responses
from apps.api.src.rag.documentation import UPLOAD_BODY, WRITE, job_responses
from apps.api.src.rag.job_stream import streamed_job, wants_events
from apps.api.src.rag.places import BASES, library_of, readable_job, require_writer
from apps.api.src.rag.schemas import Accepted, JobAnswer
from apps.api.src.rag.shown import shown_job
from apps.api.src.rag.uploads import uploads_of
from apps.api.src.wiring import Services
from apps.core.settings import Settings
from apps.rag.answering import Place

JobStream = Annotated[bool, Query(description="Tell the progress as server-sent events")]


def rag_ingest_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("rag", settings.rate_limit_rag), tags=["rag"])

    @router.get("/rag/jobs/{id}", response_model=JobAnswer, responses=job_responses())
    async def job(request: Request, id: str, stream: JobStream = False) -> Response:
        """How far a submission is; with `stream=true` or `Accept: text/event-stream`, as it goes on."""
        library = library_of(services)
        tenant, found = await readable_job(library, caller_of(request), id)
        if wants_events(request, stream):
            return streamed_job(request, library.watch(tenant, id))
        return JSONResponse(shown_job(found).model_dump())

    for base, shared in BASES.items():
        _add_upload(router, services, base + "/{name}/documents", shared)
    return router


def _add_upload(router: APIRouter, services: Services, path: str, shared: bool) -> None:
    @router.post(
        path,
        status_code=202,
        response_model=Accepted,
        responses=error_responses(*WRITE),
        openapi_extra=UPLOAD_BODY,
    )
    async def submit(request: Request, name: str) -> Response:
        """Take documents in: files of a form, or texts as JSON. They are safe once this answers, and found later."""
        place, caller = Place(name, shared), caller_of(request)
        require_writer(caller, place)
        library = library_of(services)
        async with uploads_of(request) as uploads:
            job = await library.submit(place.tenant(caller), name, uploads)
        accepted = Accepted(job=job.id, collection=name, accepted=[file.name for file in job.files])
        return JSONResponse(accepted.model_dump(), 202, {"Location": f"/rag/jobs/{job.id}"})
