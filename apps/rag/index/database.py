"""LanceDB's tables by tenant and collection: open, make, drop. A tenant has a folder of its own.

LanceDB, pyarrow and numpy are imported when a tenant's folder is first opened (``load_tables``): a second's work.
"""

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from apps.core.errors import Conflict, ModelUnavailable
from apps.core.process import import_aside
from apps.rag.records import no_collection, tenant_folder

if TYPE_CHECKING:
    from lancedb import Session as Caches

    from apps.rag.index.table import CollectionReader, CollectionWriter, TenantTables

REQUIRED = (
    *("lancedb", "pyarrow", "numpy", "semantic_text_splitter"),
    *("kreuzberg", "pypdfium2", "pptx", "selectolax", "markdown_it", "charset_normalizer"),
)
INSTALL = "make setup, or pip install -r requirements-local.txt"


@functools.cache  # a process does not gain packages
def missing_requirements() -> list[str]:
    return [name for name in REQUIRED if importlib.util.find_spec(name) is None]


def install_words() -> str:
    return f"Collections of documents need {', '.join(missing_requirements())}, not installed here: {INSTALL}"


class Database:
    """Opens the newest version of a table at each call; what is opened for reading stays at that version."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self._caches: Caches | None = None
        self._tenants: dict[tuple[str, bool], TenantTables] = {}

    async def collections(self, tenant: str) -> list[str]:
        if not self._may_exist(tenant):
            return []
        return await (await self.tenant(tenant, writing=False)).names()

    async def reading(self, tenant: str, collection: str) -> "CollectionReader":
        """A view of the collection that no commit changes any more. Raises NotFound."""
        return await (await self._existing(tenant, writing=False)).reader(collection)

    async def writing(self, tenant: str, collection: str) -> "CollectionWriter":
        """The collection, whose writers' lock must be held. Raises NotFound."""
        return await (await self._existing(tenant, writing=True)).writer(collection)

    async def making(self, tenant: str, collection: str, model: str, dimensions: int) -> "CollectionWriter":
        """The collection, made where it is not there. Its writers' lock must be held."""
        return await (await self.tenant(tenant, writing=True)).make(collection, model, dimensions)

    async def drop(self, tenant: str, collection: str) -> None:
        """Raises NotFound."""
        await (await self._existing(tenant, writing=True)).drop(collection)

    async def aclose(self) -> None:
        tenants, self._tenants = self._tenants, {}
        for tables in tenants.values():
            tables.close()

    async def _existing(self, tenant: str, *, writing: bool) -> "TenantTables":
        if not self._may_exist(tenant):
            raise no_collection()
        return await self.tenant(tenant, writing=writing)

    def _may_exist(self, tenant: str) -> bool:
        """A question about nothing must not make a folder."""
        return "://" in self._uri or (Path(self._uri) / tenant_folder(tenant)).is_dir()

    async def tenant(self, tenant: str, *, writing: bool) -> "TenantTables":
        """The tenant's tables; the folder is made where it is not there."""
        key = (tenant_folder(tenant), writing)
        if key not in self._tenants:
            if missing_requirements():
                raise ModelUnavailable(install_words(), details={"state": "not_configured"}, retry_after=60)
            tables = await import_aside(load_tables)
            self._caches = self._caches or tables.make_caches()
            self._tenants[key] = await tables.open(f"{self._uri}/{key[0]}", self._caches, writing=writing)
        return self._tenants[key]


def load_tables() -> "type[TenantTables]":
    from apps.rag.index.table import TenantTables

    return TenantTables


async def refuse_mix(collection: "CollectionReader", model: str, dimensions: int) -> None:
    """Raises Conflict where the collection was made with another embedding model."""
    own = await collection.model()
    if own != (model, dimensions):
        raise Conflict(
            f"The collection was made with the embedding model {own[0]} ({own[1]} dimensions);"
            f" this service has {model} ({dimensions})",
            field="collection",
            details={"collection": own[0], "configured": model},
        )
