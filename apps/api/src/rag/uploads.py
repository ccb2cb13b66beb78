"""Documents as they arrive: files of a form, written to the disk while they are read, or JSON."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from apps.api.src.json_body import parse_json, read_json
from apps.api.src.rag.schemas import DocumentBody
from apps.api.src.validation_errors import as_app_error
from apps.core.errors import InvalidValue, MissingRequiredField, UnsupportedMediaType
from apps.rag.records import Metadata, Upload

FORM = "multipart/form-data"
MOST_FILES = 1000
MOST_FIELDS = 16
LONGEST_FIELD = 64 * 1024

documents = TypeAdapter(list[DocumentBody])


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
            yield _files(form)
        finally:
            await form.close()
        return
    try:
        _, parsed = await read_json(request)
    except UnsupportedMediaType:
        raise UnsupportedMediaType(f"Content-Type must be application/json or {FORM}") from None
    yield _texts(parsed)


async def _form(request: Request) -> FormData:
    parser = DiskParser(
        request.headers, request.stream(), max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise InvalidValue(f"The form could not be read: {error.message}", field="files") from None


def _files(form: FormData) -> list[Upload]:
    """Every file, whatever its field is called; ``metadata`` is JSON and belongs to all of them."""
    told = form.get("metadata")
    metadata = _metadata(told) if isinstance(told, str) else {}
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile) and part.filename]
    if not files:
        raise MissingRequiredField("Files are required: parts of the form with a filename", field="files")
    return [Upload(file.filename or "", file.file, metadata) for file in files]


def _metadata(told: str) -> Metadata:
    metadata: Metadata = parse_json(told.encode("utf-8", "surrogatepass"))
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
