"""Questions to a collection: the passages that a search finds, or an answer that a model writes from them.

Documents in: submissions, and the jobs that ingest them.

Collections and documents: listed, inspected, deleted.

Each route stands under two paths: ``/rag/collections`` are the caller's own, ``/rag/shared`` are everybody's to read
and an administrator's to change. So no name can mean both.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from apps.api.src.auth.authentication import allow_model, caller_of
from apps.api.src.generate import answer
from apps.api.src.http.openapi import error_responses
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.rag.documentation import DELETE, READ, SEARCH, UPLOAD_BODY, WRITE, answer_responses, job_responses
from apps.api.src.rag.requests import (
    BASES,
    allowed_place,
    answers_of,
    library_of,
    readable_job,
    uploads_of,
    writable_place,
)
from apps.api.src.rag.schemas import (
    Accepted,
    CollectionAnswer,
    Collections,
    DocumentAnswer,
    Documents,
    DocumentTextAnswer,
    JobAnswer,
    PassageAnswer,
    Passages,
    QueryBody,
    RagAnswer,
    RagGenerateBody,
    collection_json,
    document_json,
    job_json,
    passages_json,
    query_body,
    rag_generate_body,
    streamed_job,
    wants_events,
)
from apps.api.src.routes.openai_routes import Stream
from apps.api.src.wiring.services import Services
from apps.core.calls import Price
from apps.core.fields import Between
from apps.core.settings import Settings
from apps.gateway.routing.router import Needs
from apps.gateway.routing.targets import FREE
from apps.models.metering import MeteredModel
from apps.rag.answering import Asking, Place


def rag_answer_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("rag", settings.rate_limit_rag), tags=["documents"])
    query, generate = query_body(settings), rag_generate_body(settings)
    for base, shared in BASES.items():
        _add_query(router, services, base + "/{name}/query", shared, query)
        _add_generate(router, services, settings, base + "/{name}/generate", shared, generate)
    return router


def _add_query(router: APIRouter, services: Services, path: str, shared: bool, taken: type[QueryBody]) -> None:
    async def query(request: Request, name: str, body: QueryBody) -> Passages:
        """The best passages, best first; no model writes anything."""
        caller = caller_of(request)
        place = allowed_place(caller, name, shared)
        found = await library_of(services).search(
            place.tenant(caller), name, body.query, top_k=body.top_k, filter=body.filter
        )
        return Passages(passages=passages_json(found))

    query.__annotations__["body"] = taken
    router.add_api_route(path, query, methods=["POST"], responses=error_responses(*SEARCH))


def _add_generate(
    router: APIRouter, services: Services, settings: Settings, path: str, shared: bool, taken: type[RagGenerateBody]
) -> None:
    async def generate(request: Request, name: str, body: RagGenerateBody, stream: Stream = False) -> Response:
        """Answer from the documents, with the passages that the answer was made from."""
        caller = caller_of(request)
        place = allowed_place(caller, name, shared)
        if body.model is not None:
            allow_model(caller, body.model, services.gateway.router.is_local)
        rag = answers_of(services).of(place, Asking(body.top_k, body.filter, body.model))
        # never from the response cache: what documents say changes
        metered = MeteredModel(rag, services.meter, path, lambda _: price(body.model))
        return await answer(request, metered, body.to_chat(caller, place.model), stream=stream)

    def price(writer: str | None) -> Price | None:
        name = writer or settings.rag_model
        return services.gateway.dearest(name, Needs()) if name else FREE

    generate.__annotations__["body"] = taken
    router.add_api_route(path, generate, methods=["POST"], response_model=RagAnswer, responses=answer_responses())


JobStream = Annotated[bool, Query(description="Tell the progress as server-sent events")]


def rag_ingest_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("rag", settings.rate_limit_rag), tags=["documents"])

    @router.get("/rag/jobs/{id}", response_model=JobAnswer, responses=job_responses())
    async def job(request: Request, id: str, stream: JobStream = False) -> Response:
        """How far a submission is; with `stream=true` or `Accept: text/event-stream`, as it goes on."""
        library = library_of(services)
        tenant, found = await readable_job(library, caller_of(request), id)
        if wants_events(request, stream):
            return streamed_job(request, library.watch(tenant, id))
        return JSONResponse(job_json(found).model_dump())

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
        caller = caller_of(request)
        place = writable_place(caller, name, shared)
        library = library_of(services)
        async with uploads_of(request) as uploads:
            job = await library.submit(place.tenant(caller), name, uploads)
        accepted = Accepted(job=job.id, collection=name, accepted=[file.name for file in job.files])
        return JSONResponse(accepted.model_dump(), 202, {"Location": f"/rag/jobs/{job.id}"})


Limit = Annotated[int, Between(1, 1000), Query(description="The most to list")]


def rag_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("rag", settings.rate_limit_rag), tags=["documents"])
    for base, shared in BASES.items():
        _add_collections(router, services, base, shared)
        _add_documents(router, services, base + "/{name}/documents", shared)
    return router


def _add_collections(router: APIRouter, services: Services, base: str, shared: bool) -> None:
    @router.get(base, responses=error_responses(*READ))
    async def collections(request: Request) -> Collections:
        """The collections that the caller's key is for, by name."""
        caller = caller_of(request)
        listed = await library_of(services).collections(Place("", shared).tenant(caller))
        found = [(Place(one.name, shared), one) for one in listed]
        return Collections(
            collections=[collection_json(place, one) for place, one in found if caller.may_use(place.model)]
        )

    @router.get(base + "/{name}", responses=error_responses(*READ))
    async def collection(request: Request, name: str) -> CollectionAnswer:
        """One collection: its embedding model, and how much is in it."""
        caller = caller_of(request)
        place = allowed_place(caller, name, shared)
        found = await library_of(services).collection(place.tenant(caller), name)
        return collection_json(place, found)

    @router.delete(base + "/{name}", status_code=204, responses=error_responses(*DELETE))
    async def delete_collection(request: Request, name: str) -> Response:
        """The collection with all its documents, and with what still waits to be ingested."""
        caller = caller_of(request)
        place = writable_place(caller, name, shared)
        await library_of(services).delete_collection(place.tenant(caller), name)
        return Response(status_code=204)


def _add_documents(router: APIRouter, services: Services, base: str, shared: bool) -> None:
    @router.get(base, responses=error_responses(*READ))
    async def documents(request: Request, name: str, limit: Limit = 100, after: str = "") -> Documents:
        """The documents of a collection, by id; `after` is the `next` of the page before."""
        caller = caller_of(request)
        tenant = allowed_place(caller, name, shared).tenant(caller)
        found = await library_of(services).documents(tenant, name, limit=limit, after=after)
        return Documents(
            documents=[document_json(one) for one in found], next=found[-1].id if len(found) == limit else None
        )

    @router.get(base + "/{id}", responses=error_responses(*READ))
    async def document(request: Request, name: str, id: str) -> DocumentAnswer:
        """One document: what is known of it."""
        caller = caller_of(request)
        tenant = allowed_place(caller, name, shared).tenant(caller)
        return document_json(await library_of(services).document(tenant, name, id))

    @router.get(base + "/{id}/passages", responses=error_responses(*READ))
    async def passages(
        request: Request, name: str, id: str, limit: Limit = 100, after: Annotated[int, Query(ge=-1)] = -1
    ) -> Passages:
        """The passages of a document in reading order; `after` is the `next` of the page before."""
        caller = caller_of(request)
        tenant = allowed_place(caller, name, shared).tenant(caller)
        found = await library_of(services).passages(tenant, name, id, limit=limit, after=after)
        return Passages(passages=passages_json(found), next=after + limit if len(found) == limit else None)

    @router.get(base + "/{id}/text", responses=error_responses(*READ))
    async def text(request: Request, name: str, id: str) -> DocumentTextAnswer:
        """What was read of a document: the text that the spans of passages and citations point into."""
        caller = caller_of(request)
        tenant = allowed_place(caller, name, shared).tenant(caller)
        found = await library_of(services).text(tenant, name, id)
        return DocumentTextAnswer(document=found.document.id, name=found.document.name, text=found.text)

    @router.get(base.removesuffix("documents") + "passages/{id}", responses=error_responses(*READ))
    async def passage(request: Request, name: str, id: str) -> PassageAnswer:
        """One passage by its id."""
        caller = caller_of(request)
        tenant = allowed_place(caller, name, shared).tenant(caller)
        return passages_json([await library_of(services).passage(tenant, name, id)])[0]

    @router.delete(base + "/{id}", status_code=204, responses=error_responses(*DELETE))
    async def delete_document(request: Request, name: str, id: str) -> Response:
        """The document with all its passages."""
        caller = caller_of(request)
        place = writable_place(caller, name, shared)
        await library_of(services).delete_document(place.tenant(caller), name, id)
        return Response(status_code=204)
