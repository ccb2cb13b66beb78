"""What a request to /rag means: whose collection its path names, and the documents that it brings.

Files of a form are written to the disk while they are read; documents come as JSON too.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fastapi import Request
from pydantic import ConfigDict, TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from apps.api.src.auth.authentication import allow_addressed
from apps.api.src.http.request import as_app_error, parse_json, read_json
from apps.api.src.rag.schemas import DocumentBody
from apps.api.src.wiring.services import Services
from apps.core.callers import SHARED, Caller
from apps.core.errors import (
    AppError,
    Forbidden,
    InvalidJson,
    InvalidType,
    InvalidValue,
    MissingRequiredField,
    ModelUnavailable,
    NotFound,
    UnsupportedMediaType,
)
from apps.core.storage import storing
from apps.gateway.routing.router import Router
from apps.rag.answering import PREFIX, Place, RagModels, own_tenant
from apps.rag.library import Library
from apps.rag.records import Job, Metadata, Upload

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


FORM = "multipart/form-data"
FILES, METADATA = "files", "metadata"
SHOWN_CHARACTERS = 100
MOST_FILES = 1000
MOST_FIELDS = 16
LONGEST_FIELD = 64 * 1024

documents = TypeAdapter(list[DocumentBody], config=ConfigDict(defer_build=True))


class DiskParser(MultiPartParser):
    """Keeps no more of a file in memory than a thousand of them may take."""

    spool_max_size = 32 * 1024


@asynccontextmanager
async def uploads_of(request: Request) -> AsyncGenerator[list[Upload], None]:
    """The documents of a request, for the length of the block. Raises errors that name the field."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        form = await _form(request)
        try:
            with _naming({"file": FILES, "name": FILES}):
                yield _files(form)
        finally:
            await form.close()
        return
    try:
        _, parsed = await read_json(request)
    except UnsupportedMediaType:
        raise UnsupportedMediaType(f"Content-Type must be application/json or {FORM}") from None
    with _naming({"file": "text"}):
        yield _texts(parsed)


@contextmanager
def _naming(fields: Mapping[str, str]) -> Iterator[None]:
    """What the library calls a part of a document, by the name that it came under."""
    try:
        yield
    except AppError as error:
        error.field = fields.get(error.field or "", error.field)
        raise


async def _form(request: Request) -> FormData:
    parser = DiskParser(
        request.headers, request.stream(), max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD
    )
    try:
        with storing("an upload"):
            return await parser.parse()
    except MultiPartException as error:
        raise InvalidValue(f"The form could not be read: {error.message}", field=FILES) from None


def _files(form: FormData) -> list[Upload]:
    """The parts called ``files``; ``metadata`` is JSON and belongs to all of them."""
    for name in form:
        if name not in (FILES, METADATA):
            words = f"{name[:SHOWN_CHARACTERS]} is not known here: a form has {FILES}, and may have {METADATA}"
            raise InvalidValue(words, field=FILES, details={"known": [FILES, METADATA]})
    field = form.get(METADATA)
    if isinstance(field, UploadFile):
        raise InvalidType("Metadata must be a field with JSON in it, not a file", field=METADATA)
    metadata = {} if field is None else _metadata(field)
    files = [part for part in form.getlist(FILES) if isinstance(part, UploadFile) and part.filename]
    if not files:
        raise MissingRequiredField("Files are required: parts of the form with a filename", field=FILES)
    return [Upload(file.filename or "", file.file, metadata) for file in files]


def _metadata(text: str) -> Metadata:
    try:
        metadata: Metadata = parse_json(text.encode("utf-8", "surrogatepass"))
    except InvalidJson as error:
        raise InvalidJson("Metadata must be a JSON object", field=METADATA, details=error.details) from None
    return metadata


def _texts(parsed: Any) -> list[Upload]:
    several = isinstance(parsed, list)
    given = parsed if several else [parsed]
    if not 1 <= len(given) <= MOST_FILES:
        details = {"min": 1, "max": MOST_FILES, "received": len(given)}
        raise InvalidValue(f"A call must have 1 to {MOST_FILES} documents", field="documents", details=details)
    try:
        bodies = documents.validate_python(given)
    except ValidationError as error:
        # the number of an only document says nothing to its caller
        faults = [(fault, fault["loc"] if several else fault["loc"][1:]) for fault in error.errors(include_url=False)]
        raise as_app_error([{**fault, "loc": ("body", *where)} for fault, where in faults]) from None
    return [Upload(body.name, body.text.encode(), body.metadata) for body in bodies]
