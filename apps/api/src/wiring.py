"""The only place that names concrete classes: settings in, the services of the app out."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from apps.agents.agent_model import AgentModel
from apps.agents.agents import Agents
from apps.api.src.agent_wiring import build_agents
from apps.core.ports import ChatModel, Embedder
from apps.core.settings import Settings
from apps.models.admission import Admission
from apps.models.embedding.choice import chosen_embedder
from apps.models.embedding.minilm import MiniLM
from apps.models.gateway.attempts import Attempts
from apps.models.gateway.by_path import ByPath
from apps.models.gateway.config import GatewayConfig, ProviderConfig, TimeoutsConfig
from apps.models.gateway.embeddings_wire import EmbedderOnly, EmbeddingsWire
from apps.models.gateway.gateway import Gateway
from apps.models.gateway.http_target import HttpTarget
from apps.models.gateway.local_completions import LocalCompletions
from apps.models.gateway.local_wire import LocalWire
from apps.models.gateway.named_models import NamedModels
from apps.models.gateway.responses_wire import ResponsesEitherWay, ResponsesOverChat
from apps.models.gateway.routed_model import RoutedModel
from apps.models.gateway.router import Router
from apps.models.gateway.targets import Provider
from apps.models.gateway.wire import WireTarget
from apps.models.gateway.wire_model import WireModel
from apps.models.gateway.writers import Writers
from apps.models.local.model import LocalModel
from apps.models.metering import Meter
from apps.models.openai_model import OPENAI_URL, OpenAIModel
from apps.models.retry import RetryingModel
from apps.operations.bearer_tokens import BearerTokens
from apps.operations.database import Database
from apps.operations.jwks import Jwks
from apps.operations.key_ring import KeyRing
from apps.operations.key_secrets import server_secret
from apps.operations.key_store import KeyStore
from apps.rag.answering import RagModels
from apps.rag.library import Library

START_SECONDS = 5.0
KEY_VARIABLE = "OPENAI_API_KEY"
Own = tuple[WireTarget, ChatModel]


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes ask."""

    cloud: ChatModel
    local: ChatModel
    gateway: Gateway
    embedder: Embedder | None = None
    meter: Meter = field(default_factory=Meter)
    database: Database | None = None
    documents: "Documents | None" = None
    agents: Agents | None = None
    keys: KeyRing | None = None
    tokens: BearerTokens | None = None

    async def start(self) -> None:
        if self.database is not None:
            await self.database.start()
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
            if self.documents.embedder is not self.embedder:
                await self.documents.embedder.aclose()
        await self.gateway.aclose()
        await self.cloud.aclose()
        await self.local.aclose()
        if self.embedder is not None:
            await self.embedder.aclose()
        if self.tokens is not None:
            await self.tokens.aclose()
        if self.keys is not None:
            await self.keys.aclose()
        # last, since what ended just now may still have something to put down
        if self.database is not None:
            await self.database.aclose()


@dataclass(frozen=True, slots=True)
class Documents:
    """The library of documents, and answers from it; ``writers`` learns of the gateway once there is one."""

    library: Library
    embedder: Embedder
    answers: RagModels
    writers: Writers


def build_services(settings: Settings) -> Services:
    """Raises GatewayConfigError where the routing file is wrong, AgentsConfigError where the file of agents is."""
    local, database = LocalModel(settings), build_database(settings)
    embeds, tokenizer = chosen_embedder(settings)
    # /v1/embeddings has MiniLM, whatever embeds the documents; where that is MiniLM too, it is loaded once
    embedder = embeds if isinstance(embeds, MiniLM) else MiniLM()
    documents = build_documents(settings, local, embeds, Library.from_settings(settings, embeds, tokenizer=tokenizer))
    chat = NamedModels(local, settings.default_model)
    agents = build_agents(settings, chat, documents.library, database, lambda name: _variable(name, settings))
    gateway = build_gateway(settings, local, embedder, documents, agents)
    chat.gateway = gateway
    return Services(
        build_cloud(settings, gateway),
        local,
        gateway,
        embedder,
        database=database,
        documents=documents,
        agents=agents,
        keys=KeyRing(build_key_store(settings, database)),
        tokens=build_tokens(settings),
    )


def build_database(settings: Settings) -> Database:
    return Database(settings.database_url.get_secret_value(), settings.data_dir)


def build_documents(settings: Settings, local: ChatModel, embedder: Embedder, library: Library) -> Documents:
    writers = Writers(local, settings.rag_model, settings.rag_context_tokens)
    return Documents(library, embedder, RagModels(library, writers, settings.rag_min_score), writers)


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


def build_cloud(settings: Settings, gateway: Gateway) -> ChatModel:
    """What /generate asks: the routing file's names where there is one, else the one upstream."""
    if settings.gateway_config:
        return RoutedModel(gateway, settings.default_model)
    return RetryingModel(OpenAIModel(settings), attempts=settings.retry_attempts, backoff=settings.retry_backoff)


def build_gateway(
    settings: Settings,
    local: ChatModel,
    embedder: Embedder | None = None,
    documents: Documents | None = None,
    agents: Agents | None = None,
) -> Gateway:
    """The gateway of GATEWAY_CONFIG, or the one that the seed's settings make."""
    own: dict[str, Own] = {"local": (local_wire(local), local)}
    embeds = embedder or MiniLM()
    own["embedder"] = (EmbeddingsWire(embeds), EmbedderOnly(embeds))
    if documents is not None:
        chat = LocalWire(documents.answers, asks_others=True)
        own["rag"] = (ByPath({"/chat/completions": chat}), documents.answers)
    if agents is not None:
        model = AgentModel(agents)
        own["agent"] = (ByPath({"/chat/completions": LocalWire(model, asks_others=True)}), model)

    def build() -> Router:
        config = _routing_file(settings.gateway_config) if settings.gateway_config else default_config(settings, own)
        providers = {name: _provider(name, provider, settings, own) for name, provider in config.providers.items()}
        return Router(config, providers)

    gateway = Gateway(build, Attempts(most=settings.retry_attempts, backoff=settings.retry_backoff))
    if documents is not None:
        documents.writers.gateway = gateway
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
        base_url=settings.openai_base_url, api_key_env="" if keyless else KEY_VARIABLE, timeouts=timeouts
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


def local_wire(local: ChatModel) -> WireTarget:
    """The local model on every path that it serves."""
    chat = LocalWire(local)
    return ByPath({"/completions": LocalCompletions(local), "/responses": ResponsesOverChat(chat)}, chat)


def _provider(name: str, config: ProviderConfig, settings: Settings, own: Mapping[str, Own]) -> Provider:
    admission = _admission(name, config, settings)
    if config.in_process:
        return Provider(name, config, *own[config.kind], admission)
    upstream = HttpTarget(config, _key(config.api_key_env, settings).get_secret_value())
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
