"""Whose collection a path means, and who may change it."""

from apps.api.src.auth.caller import allow_addressed
from apps.api.src.wiring.services import Services
from apps.core.callers import SHARED, Caller
from apps.core.errors import Forbidden, ModelUnavailable, NotFound
from apps.gateway.routing.router import Router
from apps.rag.answering import PREFIX, Place, RagModels, own_tenant
from apps.rag.library import Library
from apps.rag.records import Job

BASES = {"/rag/collections": False, "/rag/shared": True}
"""The two paths that every route of a collection has, and whether it is what everybody shares."""


def library_of(services: Services) -> Library:
    """Raises ModelUnavailable where there is none."""
    if services.documents is None:
        raise ModelUnavailable("There is no library of documents here")
    return services.documents.library


def answers_of(services: Services) -> RagModels:
    """Raises ModelUnavailable where there is no library."""
    if services.documents is None:
        raise ModelUnavailable("There is no library of documents here")
    return services.documents.answers


def allowed_place(caller: Caller, name: str, shared: bool) -> Place:
    """The collection that a path means. Raises Forbidden where the caller's key is not for it."""
    place = Place(name, shared)
    allow_addressed(caller, place.model)
    return place


def writable_place(caller: Caller, name: str, shared: bool) -> Place:
    """`allowed_place` for a change of it. Raises Forbidden also where the caller may read it only."""
    place = allowed_place(caller, name, shared)
    if shared and not caller.admin:
        raise Forbidden("Only an administrator's key may change what everybody shares")
    return place


async def collection_names(services: Services, router: Router, caller: Caller) -> list[str]:
    """What the caller's collections, and those that everybody shares, are called among the models.

    None where the gateway does not serve them, or the library cannot.
    """
    if services.documents is None or not router.takes(PREFIX):
        return []
    library = services.documents.library
    if library.readiness().state == "not_configured":
        return []
    found = [Place(one.name, shared=True) for one in await library.collections(SHARED)]
    if caller.tenant != SHARED:
        found = [*(Place(one.name) for one in await library.collections(caller.tenant)), *found]
    return [place.model for place in found if caller.may_use(place.model)]


async def readable_job(library: Library, caller: Caller, id: str) -> tuple[str, Job]:
    """The job and its tenant: the caller's own; for who may write shared collections, also a job of those.

    Raises Forbidden where the caller's key is not for the job's collection.
    """
    tenant = own_tenant(caller)
    try:
        job = await library.job(tenant, id)
    except NotFound:
        if not caller.admin:
            raise
        tenant = SHARED
        job = await library.job(tenant, id)
    allowed_place(caller, job.collection, tenant == SHARED)
    return tenant, job
