"""The only place that names concrete classes: settings in, the services of the app out."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from apps.agents.agents import Agents
from apps.agents.config import AGENT_PREFIX
from apps.api.src.accounts import Accounts, build_accounts
from apps.api.src.metrics.exposition import Metrics
from apps.api.src.metrics.labels import KnownNames
from apps.api.src.metrics.models_observed import GatewayObserved, ModelsObserved
from apps.api.src.request_line import CallsOnLine
from apps.api.src.tracing import Tracing, open_tracing
from apps.api.src.version import VERSION
from apps.api.src.wiring_agents import AgentParts, open_agents
from apps.api.src.wiring_documents import Documents, open_documents
from apps.core.accounting import Bookkeeper
from apps.core.observations import Observed
from apps.core.ports import ChatModel, Embedder
from apps.core.settings import Settings
from apps.models.admission import Admission
from apps.models.cache.cached_model import CachedModel
from apps.models.cache.disk_store import DiskStore
from apps.models.cache.guarded_store import GuardedStore
from apps.models.cache.memory_store import MemoryStore
from apps.models.cache.redis_store import RedisStore
from apps.models.cache.response_cache import LARGEST, ResponseCache
from apps.models.cache.semantic import SemanticIndex
from apps.models.cache.store import Store
from apps.models.embedding.minilm import MiniLM
from apps.models.gateway.attempts import Attempts
from apps.models.gateway.by_path import ByPath
from apps.models.gateway.config import ANY_MODEL, GatewayConfig, Price, ProviderConfig, TimeoutsConfig
from apps.models.gateway.embeddings_wire import EmbedderOnly, EmbeddingsWire
from apps.models.gateway.gateway import Gateway
from apps.models.gateway.http_target import HttpTarget
from apps.models.gateway.local_completions import LocalCompletions
from apps.models.gateway.local_wire import LocalWire
from apps.models.gateway.responses_wire import ResponsesEitherWay, ResponsesOverChat
from apps.models.gateway.routed_model import RoutedModel
from apps.models.gateway.router import Needs, Router
from apps.models.gateway.targets import Provider
from apps.models.gateway.wire import TraceHeaders, WireTarget
from apps.models.gateway.wire_model import WireModel
from apps.models.local.model import LocalModel
from apps.models.metering import Meter, MeteredModel, PriceOf
from apps.models.openai_model import OPENAI_URL, OpenAIModel
from apps.models.retry import RetryingModel
from apps.operations.bearer_tokens import BearerTokens
from apps.operations.database import Database
from apps.operations.jwks import Jwks
from apps.operations.key_ring import KeyRing
from apps.operations.key_secrets import server_secret
from apps.operations.key_store import KeyStore

START_SECONDS = 3.0
KEY_VARIABLE = "OPENAI_API_KEY"
REDIS_SECONDS = 0.2
Own = tuple[WireTarget, ChatModel]


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes ask."""

    cloud: ChatModel
    local: ChatModel
    gateway: Gateway
    embedder: Embedder | None = None
    meter: Meter = field(default_factory=Meter)
    cache: ResponseCache | None = None
    metrics: Metrics = field(default_factory=Metrics)
    tracing: Tracing | None = None
    database: Database | None = None
    keys: KeyRing | None = None
    tokens: BearerTokens | None = None
    accounts: Accounts | None = None
    cloud_price: PriceOf | None = None
    documents: Documents | None = None
    agents: Agents | None = None

    def on_route(self, model: ChatModel, route: str, price: PriceOf | None = None) -> ChatModel:
        """The model as a route asks it: each call on record, and answered from the cache where there is one."""
        metered = MeteredModel(model, self.meter, route, price)
        return metered if self.cache is None else CachedModel(metered, self.cache)

    async def start(self) -> None:
        self.metrics.warm()
        if self.database is not None:
            await self.database.start()
        if self.cache is not None:
            await self.cache.start()
        if self.accounts is not None:
            await self.accounts.start()
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
        if self.cache is not None:
            await self.cache.aclose()
        if self.embedder is not None:
            await self.embedder.aclose()
        if self.documents is not None and self.documents.embedder is not self.embedder:
            await self.documents.embedder.aclose()
        if self.tracing is not None:
            await self.tracing.aclose()
        if self.tokens is not None:
            await self.tokens.aclose()
        if self.keys is not None:
            await self.keys.aclose()
        # last, since what ended just now may still have something to put down
        if self.accounts is not None:
            await self.accounts.aclose()
        if self.database is not None:
            await self.database.aclose()


def build_services(settings: Settings) -> Services:
    """Raises GatewayConfigError where the routing file is wrong, AgentsConfigError where the file of agents is."""
    local, tracing, database = LocalModel(settings), open_tracing(settings), build_database(settings)
    documents, embedder = open_documents(settings, local)
    parts = open_agents(settings, local, documents.library, database, lambda name: _variable(name, settings))
    gateway = build_gateway(settings, local, embedder, tracing, documents, parts)
    cloud = build_cloud(settings, gateway, tracing)
    return on_record(settings, cloud, local, gateway, embedder, tracing, database, documents, parts.agents)


def build_cache(settings: Settings, embedder: Embedder | None = None) -> ResponseCache | None:
    """The response cache of CACHE_STORAGE; None where that is empty."""
    kind, _, place = settings.cache_storage.partition("://")
    if not kind:
        return None
    most = settings.cache_max_bytes
    store: Store = MemoryStore(most)
    if kind == "disk":
        # a file that another process writes to, or a disk that sleeps, may take a moment
        store = GuardedStore(DiskStore(Path(place), most), "the folder of CACHE_STORAGE", longest=1.0)
    elif kind != "mem":
        store = GuardedStore(RedisStore(settings.cache_storage, REDIS_SECONDS), "Redis", longest=REDIS_SECONDS)
    largest = LARGEST if kind.startswith("redis") else min(LARGEST, most // 4)
    return ResponseCache(store, settings.cache_ttl, SemanticIndex(embedder) if embedder else None, largest)


def build_database(settings: Settings) -> Database:
    return Database(settings.database_url.get_secret_value(), settings.data_dir)


def build_key_store(settings: Settings, database: Database) -> KeyStore:
    return KeyStore(database, lambda: server_secret(settings.secret_key.get_secret_value(), settings.data_dir))


def build_tokens(settings: Settings) -> BearerTokens | None:
    if not settings.oidc_issuer:
        return None
    return BearerTokens(
        Jwks(settings.oidc_issuer, settings.oidc_jwks_url),
        settings.oidc_issuer,
        settings.oidc_audience,
        settings.oidc_algorithms,
        settings.oidc_tenant_claim,
        settings.oidc_scope_claim,
    )


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
    books: Sequence[Bookkeeper] = (),
    observed: Sequence[Observed] = (),
) -> Services:
    """Services whose calls are counted, timed and logged; ``books`` are told of them too, ``observed`` is scraped too.

    The metrics stand before ``books``: they see the calls that those refuse, and are the last to see what came of one.
    """
    own = tuple(AGENT_PREFIX + name for name in agents.names()) if agents is not None else ()
    models = KnownNames(lambda: (settings.default_model, *own, *gateway.router.models()))
    providers = KnownNames(lambda: gateway.router.providers)
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
    spans = [tracing.call_spans(models, providers)] if tracing is not None else []
    meter = Meter((CallsOnLine(), metrics.calls, *spans, *accounts.books(), *books))
    keys = None if database is None else KeyRing(build_key_store(settings, database))
    return Services(
        cloud,
        local,
        gateway,
        embedder,
        meter,
        cache,
        metrics,
        tracing,
        database,
        keys,
        build_tokens(settings),
        accounts,
        cloud_price(settings, gateway),
        documents,
        agents,
    )


def cloud_price(settings: Settings, gateway: Gateway) -> PriceOf:
    """Of what /generate asks."""
    if settings.gateway_config:
        return lambda name: gateway.dearest(name or settings.default_model, Needs())
    price = _openai_price(settings)
    return lambda _: price


def build_cloud(settings: Settings, gateway: Gateway, tracing: Tracing | None = None) -> ChatModel:
    """What /generate asks: the routing file's names where there is one, else the one upstream."""
    if settings.gateway_config:
        return RoutedModel(gateway, settings.default_model)
    model = OpenAIModel(settings, tracing.headers if tracing is not None else None)
    return RetryingModel(model, attempts=settings.retry_attempts, backoff=settings.retry_backoff)


def build_gateway(
    settings: Settings,
    local: ChatModel,
    embedder: Embedder | None = None,
    tracing: Tracing | None = None,
    documents: Documents | None = None,
    agents: AgentParts | None = None,
) -> Gateway:
    """The gateway of GATEWAY_CONFIG, or the one that the seed's settings make."""
    own: dict[str, Own] = {"local": (local_wire(local), local)}
    embeds = embedder or MiniLM()
    own["embedder"] = (EmbeddingsWire(embeds), EmbedderOnly(embeds))
    if documents is not None:
        own["rag"] = (documents.wire(), documents.answers)
    if agents is not None:
        own["agent"] = (agents.wire(), agents.model)
    trace = tracing.headers if tracing is not None else None

    def build() -> Router:
        config = _routing_file(settings.gateway_config) if settings.gateway_config else default_config(settings, own)
        providers = {
            name: _provider(name, provider, settings, own, trace) for name, provider in config.providers.items()
        }
        return Router(config, providers)

    gateway = Gateway(build, Attempts(most=settings.retry_attempts, backoff=settings.retry_backoff))
    if documents is not None:
        documents.writers.gateway = gateway
    if agents is not None:
        agents.chat.gateway = gateway
    return gateway


def _routing_file(path: Path) -> GatewayConfig:
    from apps.models.gateway.routing_file import load_gateway_config  # imports YAML, which most starts do not need

    return load_gateway_config(path)


def default_config(settings: Settings, own: Collection[str] = ("local", "embedder")) -> GatewayConfig:
    """Without a file: this process's ``own`` models under their names, every other name handed to the one upstream."""
    timeouts = TimeoutsConfig.model_construct(
        connect=settings.connect_timeout,
        first_token=settings.read_timeout,
        between_tokens=settings.read_timeout,
    )
    keyless = not settings.openai_api_key.get_secret_value() and settings.openai_base_url.rstrip("/") != OPENAI_URL
    upstream = ProviderConfig.model_construct(
        base_url=settings.openai_base_url,
        api_key_env="" if keyless else KEY_VARIABLE,
        timeouts=timeouts,
        prices={} if (price := _openai_price(settings)) is None else {ANY_MODEL: price},
    )
    in_process = {
        "local": ProviderConfig.model_construct(kind="local"),
        # it computes one call at a time: more than the next one had better wait in the fair queue
        "embedder": ProviderConfig.model_construct(kind="embedder", max_concurrency=2),
        "rag": ProviderConfig.model_construct(kind="rag"),
        "agent": ProviderConfig.model_construct(kind="agent"),
    }
    return GatewayConfig.model_construct(
        providers={"openai": upstream, **{name: in_process[name] for name in own}},
        default_provider="openai",
    )


def _openai_price(settings: Settings) -> Price | None:
    if not settings.openai_price:
        return None
    prompt, answer = map(float, settings.openai_price.split("/"))
    return Price.model_construct(input=prompt, output=answer)


def local_wire(local: ChatModel) -> WireTarget:
    """The local model on every path that it serves."""
    chat = LocalWire(local)
    return ByPath({"/completions": LocalCompletions(local), "/responses": ResponsesOverChat(chat)}, chat)


def _provider(
    name: str, config: ProviderConfig, settings: Settings, own: Mapping[str, Own], trace: TraceHeaders | None
) -> Provider:
    admission = _admission(name, config, settings)
    if config.in_process:
        return Provider(name, config, *own[config.kind], admission)
    upstream = HttpTarget(config, _key(config.api_key_env, settings).get_secret_value(), trace)
    return Provider(name, config, _with_responses(name, config, upstream), WireModel(name, upstream), admission)


def _admission(name: str, config: ProviderConfig, settings: Settings) -> Admission:
    """The local model's calls wait here, where the receipt counts it, and not in the model's own queue."""
    if config.kind != "local":
        return Admission(config.max_concurrency, config.queue_size, config.queue_timeout, f"The provider {name}")
    told = config.model_fields_set
    return Admission(
        min(config.max_concurrency, settings.local_slots),
        config.queue_size if "queue_size" in told else settings.local_queue_size,
        config.queue_timeout if "queue_timeout" in told else settings.local_queue_timeout,
        "The local model",
    )


def _with_responses(name: str, config: ProviderConfig, upstream: WireTarget) -> WireTarget:
    if config.responses == "native":
        return upstream
    responses: WireTarget = ResponsesOverChat(upstream)
    if config.responses == "auto":
        responses = ResponsesEitherWay(upstream, responses, name)
    return ByPath({"/responses": responses}, upstream)


def _key(variable: str, settings: Settings) -> SecretStr:
    """The key that a provider's ``api_key_env`` names: from the environment, or from `.env` as every setting."""
    return settings.openai_api_key if variable == KEY_VARIABLE else SecretStr(_variable(variable, settings))


def _variable(name: str, settings: Settings) -> str:
    env_file = settings.model_config.get("env_file")
    written = dotenv_values(env_file) if isinstance(env_file, str) else {}
    return os.environ.get(name) or written.get(name) or ""
