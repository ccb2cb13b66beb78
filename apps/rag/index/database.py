"""LanceDB's tables by tenant and collection: open, make, drop. A tenant has a folder of its own."""

import functools
import importlib.util
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.core.errors import Conflict, ModelUnavailable, NotFound
from apps.core.process import import_aside
from apps.rag.index.rows import DIMENSIONS, MODEL, schema
from apps.rag.records import tenant_folder

if TYPE_CHECKING:
    from lancedb import AsyncConnection
    from lancedb.table import AsyncTable

REQUIRED = (
    *("lancedb", "pyarrow", "numpy", "semantic_text_splitter"),
    *("kreuzberg", "pypdfium2", "pptx", "selectolax", "markdown_it", "charset_normalizer"),
)
INSTALL = "make setup, or pip install -r requirements-local.txt"
# of what was read, for all collections together: an index of 100,000 passages takes about 100 MB
INDEX_CACHE = 256 * 2**20
METADATA_CACHE = 64 * 2**20
# names of tables: `con` and its like are devices on Windows
PREFIX = "c-"


@functools.cache  # a process does not gain packages
def missing_requirements() -> list[str]:
    return [name for name in REQUIRED if importlib.util.find_spec(name) is None]


def install_words() -> str:
    return f"Collections of documents need {', '.join(missing_requirements())}, not installed here: {INSTALL}"


class Database:
    """Opens the newest version of a table at each call; what is opened for reading stays at that version."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self._session: Any = None
        self._connections: dict[tuple[str, bool], AsyncConnection] = {}

    async def collections(self, tenant: str) -> list[str]:
        if not self._may_exist(tenant):
            return []
        connection = await self._connection(tenant, writing=False)
        names: list[str] = []
        page: str | None = None
        while True:
            answer = await connection.list_tables(page_token=page)
            names += [name.removeprefix(PREFIX) for name in answer.tables if name.startswith(PREFIX)]
            page = answer.page_token
            if not page:
                return sorted(names)

    async def reading(self, tenant: str, collection: str) -> "AsyncTable":
        """A view of the collection that no commit changes any more. Raises NotFound."""
        if not self._may_exist(tenant):
            raise no_collection()
        return await self._open(await self._connection(tenant, writing=False), collection)

    async def writing(self, tenant: str, collection: str) -> "AsyncTable":
        if not self._may_exist(tenant):
            raise no_collection()
        return await self._open(await self._connection(tenant, writing=True), collection)

    async def making(self, tenant: str, collection: str, model: str, dimensions: int) -> "AsyncTable":
        """The collection, made where it is not there. Its writers' lock must be held."""
        connection = await self._connection(tenant, writing=True)
        try:
            return await self._open(connection, collection)
        except NotFound:
            return await connection.create_table(PREFIX + collection, schema=schema(model, dimensions))

    async def drop(self, tenant: str, collection: str) -> None:
        if not self._may_exist(tenant):
            raise no_collection()
        connection = await self._connection(tenant, writing=True)
        await self._open(connection, collection)
        await connection.drop_table(PREFIX + collection)

    async def aclose(self) -> None:
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.close()

    def _may_exist(self, tenant: str) -> bool:
        """A question about nothing must not make a folder."""
        return "://" in self._uri or (Path(self._uri) / tenant_folder(tenant)).is_dir()

    async def _open(self, connection: "AsyncConnection", collection: str) -> "AsyncTable":
        try:
            return await connection.open_table(PREFIX + collection)
        except ValueError as error:
            if "not found" in str(error):
                raise no_collection() from None
            raise

    async def _connection(self, tenant: str, writing: bool) -> "AsyncConnection":
        key = (tenant_folder(tenant), writing)
        if key not in self._connections:
            if missing_requirements():
                raise ModelUnavailable(install_words(), details={"state": "not_configured"}, retry_after=60)
            # a second's work, the first time
            await import_aside(import_lancedb)
            import lancedb

            self._session = self._session or lancedb.Session(INDEX_CACHE, METADATA_CACHE)
            self._connections[key] = await lancedb.connect_async(
                f"{self._uri}/{key[0]}",
                # a writer follows each commit; a reader opens anew for each question
                read_consistency_interval=timedelta(0) if writing else None,
                session=self._session,
            )
        return self._connections[key]


def import_lancedb() -> None:
    """With every part of it that this package uses."""
    import lancedb.index
    import lancedb.query
    import lancedb.table
    import pyarrow

    del lancedb, pyarrow


async def model_of(table: "AsyncTable") -> tuple[str, int]:
    told = (await table.schema()).metadata
    return told[MODEL].decode(), int(told[DIMENSIONS])


async def refuse_mix(table: "AsyncTable", model: str, dimensions: int) -> None:
    """Raises Conflict where the collection was made with another embedding model."""
    own = await model_of(table)
    if own != (model, dimensions):
        raise Conflict(
            f"The collection was made with the embedding model {own[0]} ({own[1]} dimensions);"
            f" this service has {model} ({dimensions})",
            field="collection",
            details={"collection": own[0], "configured": model},
        )


def no_collection() -> NotFound:
    return NotFound("No such collection", field="collection")
