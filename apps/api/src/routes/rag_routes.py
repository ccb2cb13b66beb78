"""Collections and documents: listed, inspected, deleted. Taken in: rag_ingest_routes.py; asked: rag_answer_routes.py.

Each route stands under two paths: ``/rag/collections`` are the caller's own, ``/rag/shared`` are everybody's to read
and an administrator's to change. So no name can mean both.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from apps.api.src.caller import caller_of
from apps.api.src.limits import RateLimits
from apps.api.src.openapi import error_responses
from apps.api.src.rag.documentation import READ
from apps.api.src.rag.places import BASES, library_of, require_writer
from apps.api.src.rag.schemas import CollectionAnswer, Collections, DocumentAnswer, Documents, Passages
from apps.api.src.rag.shown import shown_collection, shown_document, shown_passages
from apps.api.src.wiring import Services
from apps.core.fields import Between
from apps.core.settings import Settings
from apps.rag.answering import Place

Limit = Annotated[int, Between(1, 1000), Query(description="The most to list")]


def rag_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("rag", settings.rate_limit_rag), tags=["rag"])
    for base, shared in BASES.items():
        _add_collections(router, services, base, shared)
        _add_documents(router, services, base + "/{name}/documents", shared)
    return router


def _add_collections(router: APIRouter, services: Services, base: str, shared: bool) -> None:
    @router.get(base, responses=error_responses(*READ))
    async def collections(request: Request) -> Collections:
        """The collections, by name."""
        tenant = Place("", shared).tenant(caller_of(request))
        found = await library_of(services).collections(tenant)
        return Collections(collections=[shown_collection(Place(one.name, shared), one) for one in found])

    @router.get(base + "/{name}", responses=error_responses(*READ))
    async def collection(request: Request, name: str) -> CollectionAnswer:
        """One collection: its embedding model, and how much is in it."""
        place = Place(name, shared)
        found = await library_of(services).collection(place.tenant(caller_of(request)), name)
        return shown_collection(place, found)

    @router.delete(base + "/{name}", status_code=204, responses=error_responses(*READ))
    async def delete_collection(request: Request, name: str) -> Response:
        """The collection with all its documents, and with what still waits to be ingested."""
        place, caller = Place(name, shared), caller_of(request)
        require_writer(caller, place)
        await library_of(services).delete_collection(place.tenant(caller), name)
        return Response(status_code=204)


def _add_documents(router: APIRouter, services: Services, base: str, shared: bool) -> None:
    @router.get(base, responses=error_responses(*READ))
    async def documents(request: Request, name: str, limit: Limit = 100, after: str = "") -> Documents:
        """The documents of a collection, by id; `after` is the `next` of the page before."""
        tenant = Place(name, shared).tenant(caller_of(request))
        found = await library_of(services).documents(tenant, name, limit=limit, after=after)
        return Documents(
            documents=[shown_document(one) for one in found], next=found[-1].id if len(found) == limit else None
        )

    @router.get(base + "/{id}", responses=error_responses(*READ))
    async def document(request: Request, name: str, id: str) -> DocumentAnswer:
        """One document: what is known of it."""
        tenant = Place(name, shared).tenant(caller_of(request))
        return shown_document(await library_of(services).document(tenant, name, id))

    @router.get(base + "/{id}/passages", responses=error_responses(*READ))
    async def passages(
        request: Request, name: str, id: str, limit: Limit = 100, after: Annotated[int, Query(ge=-1)] = -1
    ) -> Passages:
        """The passages of a document in reading order; `after` is the `next` of the page before."""
        tenant = Place(name, shared).tenant(caller_of(request))
        found = await library_of(services).passages(tenant, name, id, limit=limit, after=after)
        return Passages(passages=shown_passages(found), next=after + limit if len(found) == limit else None)

    @router.delete(base + "/{id}", status_code=204, responses=error_responses(*READ))
    async def delete_document(request: Request, name: str, id: str) -> Response:
        """The document with all its passages."""
        place, caller = Place(name, shared), caller_of(request)
        require_writer(caller, place)
        await library_of(services).delete_document(place.tenant(caller), name, id)
        return Response(status_code=204)
