"""What tests of the library share: limits for small files and quick leases, and the end of a job."""

from collections.abc import Mapping, Sequence
from typing import Any

from apps.rag.library import Library
from apps.rag.records import Job, Limits, Metadata, Upload

LIMITS = Limits(file_bytes=4 * 2**20, chunk_tokens=40, lease_seconds=2)


async def ingested(
    library: Library,
    files: Mapping[str, str | bytes],
    tenant: str = "ann",
    collection: str = "docs",
    metadata: Metadata | None = None,
) -> Job:
    """The job of these files, when it is finished."""
    uploads = [
        Upload(name, content.encode() if isinstance(content, str) else content, metadata or {})
        for name, content in files.items()
    ]
    return await finished(library, tenant, await library.submit(tenant, collection, uploads))


async def finished(library: Library, tenant: str, job: Job) -> Job:
    return [state async for state in library.watch(tenant, job.id)][-1]


async def names(library: Library, tenant: str = "ann", collection: str = "docs") -> list[str]:
    return sorted(document.name for document in await library.documents(tenant, collection))


async def texts(library: Library, query: str, **options: Any) -> Sequence[str]:
    options = {"tenant": "ann", "collection": "docs", **options}
    found = await library.search(options.pop("tenant"), options.pop("collection"), query, **options)
    return [passage.text for passage in found]
