"""The only place that names concrete classes: settings in, the services of the app out.

Also what must be there before the service starts, and what SIGHUP has read again. Each check is made without an event
loop, since a server may run one. The routing file and the file of agents are read again, each all or nothing; the log
says what came of it.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from apps.agents.agents import Agents
from apps.agents.config import AGENT_PREFIX, AgentsConfigError
from apps.api.src.observability.call_metrics import KnownNames
from apps.api.src.observability.metrics import GatewayObserved, Metrics, ModelsObserved
from apps.api.src.observability.request_line import CallsOnLine
from apps.api.src.observability.tracing import Tracing, open_tracing
from apps.api.src.wiring.agents import open_agents
from apps.api.src.wiring.fleet import InferenceMetrics, local_model, model_settings
from apps.api.src.wiring.gateway import build_cloud, cloud_price, load_gateway, new_gateway, setting_of
from apps.api.src.wiring.stores import (
    Accounts,
    Documents,
    EmbeddingModels,
    build_accounts,
    build_cache,
    build_database,
    build_key_store,
    build_tokens,
    chosen_reranker,
    open_documents,
)
from apps.cache.front import CachedModel, CacheFront
from apps.core.calls import Bookkeeper
from apps.core.errors import StoreUnavailable
from apps.core.ports import ChatModel, Embedder, Observed, Reranker
from apps.core.process import VERSION
from apps.core.settings import Settings
from apps.gateway.gateway import LOCAL, Gateway
from apps.gateway.replicas.target import ReplicaModel
from apps.gateway.routing.config import GatewayConfigError
from apps.gateway.routing.targets import FREE
from apps.local.model import LocalModel
from apps.models.metering import Meter, MeteredModel, PriceOf
from apps.operations.database import Database
from apps.operations.key_store import KeyRing
from apps.transport.client import Connections

if TYPE_CHECKING:
    from apps.operations.bearer_tokens import BearerTokens

START_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes ask."""

    cloud: ChatModel
    local: ChatModel
    gateway: Gateway
    embedder: Embedder | None = None
    meter: Meter = field(default_factory=Meter)
    front: CacheFront | None = None
    metrics: Metrics = field(default_factory=Metrics)
    tracing: Tracing | None = None
    database: Database | None = None
    keys: KeyRing | None = None
    tokens: "BearerTokens | None" = None
    accounts: Accounts | None = None
    cloud_price: PriceOf | None = None
    documents: Documents | None = None
    agents: Agents | None = None
    connections: Connections | None = None
    reranker: Reranker | None = None
    embedders: Sequence[Embedder] = ()
    reranker_is_local: bool = True

    @property
    def generate(self) -> MeteredModel | CachedModel:
        """What /generate asks."""
        return self._on_route(self.cloud, "/generate", self.cloud_price)

    @property
    def generate_locally(self) -> MeteredModel | CachedModel:
        """What /local/generate asks."""
        return self._on_route(self.local, "/local/generate", lambda _: FREE, LOCAL)

    def _on_route(
        self, model: ChatModel, route: str, price: PriceOf | None, provider: str = ""
    ) -> MeteredModel | CachedModel:
        """The model with each call on record, behind the cache where there is one."""
        metered = MeteredModel(model, self.meter, route, price, provider)
        return metered if self.front is None else CachedModel(metered, self.front)

    async def start(self) -> None:
        self.metrics.warm()
        if self.database is not None:
            await self.database.start()
        if self.front is not None:
            await self.front.cache.start()
        if self.accounts is not None:
            await self.accounts.start()
        await self.gateway.start()
        await self.cloud.start()
        await self.local.start()
        if self.documents is not None:
            await self.documents.library.start()
        if self.agents is not None:
            await self.agents.start()
        if self.keys is not None:
            await self.keys.start()
            # a database that is down must not keep /health from answering
            await self.keys.ready(within=START_SECONDS)

    async def aclose(self) -> None:
        if self.agents is not None:
            await self.agents.aclose()
        if self.documents is not None:
            await self.documents.library.aclose()
        await self.gateway.aclose()
        await self.cloud.aclose()
        await self.local.aclose()
        if self.front is not None:
            await self.front.cache.aclose()
        if self.embedder is not None:
            await self.embedder.aclose()
        for embedder in self.embedders:
            await embedder.aclose()
        if self.reranker is not None:
            await self.reranker.aclose()
        if self.documents is not None and self.documents.embedder not in (self.embedder, *self.embedders):
            await self.documents.embedder.aclose()
        if self.tracing is not None:
            await self.tracing.aclose()
        if self.tokens is not None:
            await self.tokens.aclose()
        if self.connections is not None:
            await self.connections.aclose()
        if self.keys is not None:
            await self.keys.aclose()
        # last, since what ended just now may still have something to put down
        if self.accounts is not None:
            await self.accounts.aclose()
        if self.database is not None:
            await self.database.aclose()


def build_services(settings: Settings) -> Services:
    """Raises GatewayConfigError where the routing file is wrong, AgentsConfigError where the file of agents is,
    SettingsError where a folder of EMBEDDING_MODELS is no embedding model.
    """
    tracing, database = open_tracing(settings), build_database(settings)
    local = local_model(settings, tracing)
    connections = Connections()
    gateway = new_gateway(settings)
    # the process that has the local model has the others too
    elsewhere = local.target if isinstance(local, ReplicaModel) else None
    reranker, models = chosen_reranker(settings, connections, elsewhere), EmbeddingModels(settings, elsewhere)
    documents = open_documents(settings, gateway, local, connections, reranker, models, database)
    embedder, others = models.first, models.others
    parts = open_agents(settings, gateway, local, documents.library, database, lambda name: setting_of(name, settings))
    load_gateway(gateway, settings, local, embedder, tracing, documents, parts, connections, others)
    cloud = build_cloud(settings, gateway)
    services = on_record(
        settings, cloud, local, gateway, embedder, tracing, database, documents, parts.agents, connections=connections
    )
    return replace(services, reranker=reranker, reranker_is_local=not settings.rerank_base_url, embedders=others)


def build_model_services(settings: Settings) -> Services:
    """The services of SERVE_ROLE=model: the local model, the embedders, and a reranker of this machine."""
    own = model_settings(settings)
    local, tracing, connections, models = LocalModel(own), open_tracing(own), Connections(), EmbeddingModels(own)
    reranker = None if own.rerank_base_url else chosen_reranker(own, connections)
    gateway = new_gateway(own)
    load_gateway(gateway, own, local, models.first, tracing, connections=connections, embedders=models.others)
    observed = [InferenceMetrics(local)]
    services = on_record(own, local, local, gateway, models.first, tracing, observed=observed, connections=connections)
    return replace(services, reranker=reranker, embedders=models.others)


def on_record(
    settings: Settings,
    cloud: ChatModel,
    local: ChatModel,
    gateway: Gateway,
    embedder: Embedder | None = None,
    tracing: Tracing | None = None,
    database: Database | None = None,
    documents: Documents | None = None,
    agents: Agents | None = None,
    *,
    bookkeepers: Sequence[Bookkeeper] = (),
    observed: Sequence[Observed] = (),
    connections: Connections | None = None,
) -> Services:
    """Services whose calls are counted, timed and logged, also by ``books``; ``observed`` have metrics of their own.

    The metrics stand before ``books``: they count the calls that those refuse, and read each record last.
    """
    models = KnownNames(lambda: (settings.default_model, *_agent_names(agents), *gateway.router.models()))
    providers = KnownNames(lambda: (LOCAL, *gateway.router.providers))
    roles = {"cloud": cloud.readiness, "local": local.readiness}
    roles |= {"embedder": embedder.readiness} if embedder is not None else {}
    accounts, cache = build_accounts(settings, database), build_cache(settings, embedder)
    caches = [] if cache is None else [cache]
    parts: tuple[Observed, ...] = (
        GatewayObserved(gateway, models),
        ModelsObserved(roles),
        accounts,
        *caches,
        *observed,
    )
    metrics = Metrics(models, providers, parts, VERSION)
    if documents is not None:
        library = documents.library
        metrics.loop_lag.watch(lambda: library.at_work)
    spans = [tracing.call_spans(models, providers)] if tracing is not None else []
    meter = Meter((CallsOnLine(), metrics.calls, *spans, *accounts.bookkeepers(), *bookkeepers))
    keys = (
        None
        if database is None
        else KeyRing(build_key_store(settings, database), first_seconds=settings.database_timeout)
    )
    return Services(
        cloud,
        local,
        gateway,
        embedder,
        meter,
        None if cache is None else CacheFront(cache, meter),
        metrics,
        tracing,
        database,
        keys,
        build_tokens(settings, connections),
        accounts,
        cloud_price(settings, gateway),
        documents,
        agents,
        connections,
    )


def _agent_names(agents: Agents | None) -> tuple[str, ...]:
    """As of now: a reload may change them."""
    return () if agents is None else tuple(AGENT_PREFIX + name for name in agents.names())


log = logging.getLogger(__name__)


@contextmanager
def reloading(gateway: Gateway, agents: Agents | None = None) -> Iterator[None]:
    """Reload on SIGHUP for the length of the block; where there is no such signal (Windows), do nothing."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload, gateway, agents)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def reload(gateway: Gateway, agents: Agents | None = None) -> None:
    """Take each file as it is now, or keep the one at work and report every fault."""
    _reload_routes(gateway)
    if agents is not None:
        _reload_agents(agents)


def _reload_routes(gateway: Gateway) -> None:
    try:
        gateway.reload()
    except GatewayConfigError as error:
        for fault in str(error).splitlines():
            log.error("The routing file was not reloaded: %s", fault)
        return
    router = gateway.router
    log.info("The routing file is in force: %d providers, %d model names", len(router.providers), len(router.names()))


def _reload_agents(agents: Agents) -> None:
    try:
        reloaded = agents.reload()
    except AgentsConfigError as error:
        for fault in str(error).splitlines():
            log.error("The file of agents was not reloaded: %s", fault)
        return
    if reloaded:
        config = agents.roster.config
        log.info(
            "The file of agents is in force: %d agents, %d MCP servers", len(config.agents), len(config.mcp_servers)
        )


DATABASE_SECONDS = 3.0


def unwritable(settings: Settings) -> str | None:
    """One line where what is kept has no place in DATA_DIR; nothing is made yet."""
    if settings.database_url.get_secret_value() and settings.secret_key.get_secret_value():
        return None
    nearest = settings.data_dir.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return None
    return "Wrong setting DATA_DIR: must be a folder that can be written to"


def no_key_exists(settings: Settings) -> bool:
    """Where the database does not answer, that is not known, and False: the service then admits no request."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(_is_empty(settings))))
    thread.start()
    thread.join()
    return answers == [True]


async def _is_empty(settings: Settings) -> bool:
    database = build_database(settings)
    await database.start()
    try:
        if not await database.ready(DATABASE_SECONDS):
            return False
        return not (await build_key_store(settings, database).state()).exist
    except StoreUnavailable:
        return False
    finally:
        await database.aclose()
