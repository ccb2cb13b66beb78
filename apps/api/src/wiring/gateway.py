"""The gateway of the settings: which providers there are, who answers which name, and at what price."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from apps.api.src.anthropic.target import MessagesOverChat
from apps.api.src.observability.tracing import Tracing
from apps.api.src.wiring.agents import AgentParts
from apps.api.src.wiring.fleet import PATIENT, SECRET_VARIABLE
from apps.api.src.wiring.stores import Documents
from apps.core.calls import Boundary, Price
from apps.core.ports import ChatModel, Embedder, Writer
from apps.core.settings import Settings
from apps.gateway.gateway import Gateway, GatewayModel
from apps.gateway.openai_api.chat_completions import LocalWire
from apps.gateway.openai_api.completions import LocalCompletions
from apps.gateway.openai_api.embeddings import EmbeddingsWire
from apps.gateway.openai_api.responses import ResponsesEitherWay, ResponsesOverChat
from apps.gateway.openai_api.stored_responses import StoredResponses
from apps.gateway.protocol import TraceHeaders, WireTarget
from apps.gateway.replicas.replica_set import ReplicaSet
from apps.gateway.replicas.retrieval import ReplicaEmbedder, ReplicaEmbeddingsWire
from apps.gateway.replicas.table import ANY
from apps.gateway.replicas.target import ReplicaModel, ReplicaTarget
from apps.gateway.routing.attempts import Attempts
from apps.gateway.routing.config import (
    ANY_MODEL,
    GatewayConfig,
    ModelConfig,
    ProviderConfig,
    TargetConfig,
    TimeoutsConfig,
    boundary_of,
    load_gateway_config,
)
from apps.gateway.routing.router import Needs, Router
from apps.gateway.routing.targets import Provider
from apps.gateway.upstream.chat_over_messages import ChatOverMessages
from apps.gateway.upstream.http_target import ByPath, HttpTarget, WireModel
from apps.gateway.upstream.passage import Passage
from apps.local.encoders.embedder import MiniLM
from apps.models.admission import Admission, OwnQueue
from apps.models.metering import PriceOf
from apps.models.upstream_errors import KEY_VARIABLE, needs_key
from apps.transport.client import Connections

UPSTREAM = "openai"
LONGEST_CALL = 3600.0
MANY_CALLS = 10_000
# embeddings that gateways may ask of one process at a time
FLEET_CALLS = 64
IN_PROCESS = {
    "local": ProviderConfig.model_construct(kind="local"),
    # it computes one call at a time: more than the next one had better wait in the fair queue
    "embedder": ProviderConfig.model_construct(kind="embedder", max_concurrency=2),
    "rag": ProviderConfig.model_construct(kind="rag"),
    "agent": ProviderConfig.model_construct(kind="agent"),
}
Own = tuple[WireTarget, ChatModel]


def cloud_price(settings: Settings, gateway: Gateway) -> PriceOf:
    """Of what /generate asks."""
    if settings.gateway_config:
        return lambda name: gateway.dearest(name or settings.default_model, Needs())
    price = _openai_price(settings)
    return lambda _: price


def build_cloud(settings: Settings, gateway: Gateway) -> ChatModel:
    """What /generate asks: the routing file's names where there is one, else the one upstream."""
    return GatewayModel(gateway, settings.default_model, upstream=not settings.gateway_config)


def new_gateway(settings: Settings) -> Gateway:
    """A gateway that is to be loaded, for the models of this process that ask it."""
    # of several processes another one may be asked for what one of them keeps
    alone = settings.api_workers == 1 and not settings.api_peers and settings.serve_role == "all"
    stored = StoredResponses(settings.responses_ttl if alone else 0)
    return Gateway(Attempts(most=settings.retry_attempts, backoff=settings.retry_backoff), stored)


def build_gateway(settings: Settings, local: ChatModel, embedder: Embedder | None = None) -> Gateway:
    """A gateway with the local model and an embedder, and neither documents nor agents."""
    gateway = new_gateway(settings)
    load_gateway(gateway, settings, local, embedder)
    return gateway


def load_gateway(
    gateway: Gateway,
    settings: Settings,
    local: ChatModel,
    embedder: Embedder | None = None,
    tracing: Tracing | None = None,
    documents: Documents | None = None,
    agents: AgentParts | None = None,
    connections: Connections | None = None,
    embedders: Sequence[Embedder] = (),
) -> None:
    """Load the routing file of GATEWAY_CONFIG, or the configuration that the settings make without one.

    ``connections`` are closed by their owner; without them each provider has its own. ``embedders`` are there beside
    the first, wherever that is.
    """
    stored = gateway.stored_responses
    own: dict[str, Own] = {"local": (_own_local(local, stored), local)}
    embeddings = _embeddings(embedder or MiniLM())
    own["embedder"] = (embeddings, embeddings)
    if documents is not None:
        own["rag"] = (documents.wire(), documents.answers)
    if agents is not None:
        own["agent"] = (agents.wire(), agents.model)
    trace = tracing.headers if tracing is not None else None

    def build() -> Router:
        config = _routing_file(settings.gateway_config) if settings.gateway_config else default_config(settings, own)
        providers = {
            name: _provider(name, provider, settings, own, trace, connections, stored)
            for name, provider in config.providers.items()
        }
        providers |= {one.name: one for one in _more_embedders(config, settings, embedders)}
        for provider in providers.values():
            provider.boundary = _boundary(provider.config, settings)
        router = Router(config, providers)
        if isinstance(local, OwnQueue):
            local.admission.bound(*_local_bounds(config.providers.values(), settings))
        return router

    gateway.load(build)


def _routing_file(path: Path) -> GatewayConfig:
    return load_gateway_config(path)


def default_config(settings: Settings, own: Collection[str] = ("local", "embedder")) -> GatewayConfig:
    """Without a file: this process's ``own`` models under their names, every other name handed to the one upstream."""
    timeouts = TimeoutsConfig.model_construct(
        connect=settings.connect_timeout,
        write=settings.write_timeout,
        first_token=settings.first_token_timeout,
        silence=settings.read_timeout,
        between_tokens=settings.read_timeout,
        # a long answer is not killed while it flows
        total=LONGEST_CALL,
    )
    if settings.serve_role == "model":
        return _model_config(own)
    upstream = ProviderConfig.model_construct(
        base_url=settings.openai_base_url,
        api_key_env=KEY_VARIABLE if needs_key(settings.openai_base_url) or _has_key(settings) else "",
        timeouts=timeouts,
        # an upstream that keeps the connection alive meanwhile is slow, and not broken
        slow_after=settings.first_token_timeout,
        prices={} if (price := _openai_price(settings)) is None else {ANY_MODEL: price},
    )
    return GatewayConfig.model_construct(
        providers={UPSTREAM: upstream, **{name: IN_PROCESS[name] for name in own}},
        default_provider=UPSTREAM,
    )


def _model_config(own: Collection[str]) -> GatewayConfig:
    """Of a process that serves models alone: they answer to their own names, and the local one to ``local``.

    Its callers are gateways, each with a fair queue of its own; here a question must not wait behind documents, for
    which the embedder has another thread.
    """
    target = TargetConfig.model_construct(provider="local", model="")
    providers = {name: IN_PROCESS[name] for name in own}
    if "embedder" in providers:
        providers["embedder"] = providers["embedder"].model_copy(update={"max_concurrency": FLEET_CALLS})
    return GatewayConfig.model_construct(
        providers=providers,
        models={ANY: ModelConfig.model_construct(targets=[target], fallbacks=[])},
    )


def _has_key(settings: Settings) -> bool:
    return bool(settings.openai_api_key.get_secret_value())


def _openai_price(settings: Settings) -> Price | None:
    if not settings.openai_price:
        return None
    prompt, answer = map(float, settings.openai_price.split("/"))
    return Price.model_construct(input=prompt, output=answer)


class _Lent:
    """A WireTarget that others close."""

    def __init__(self, wire: WireTarget) -> None:
        self.open = wire.open

    async def aclose(self) -> None:
        """Its owner does."""


def _own_local(local: ChatModel, stored: StoredResponses) -> WireTarget:
    """The local model's wire: of another process its own, where bytes pass through."""
    return _Lent(local.target) if isinstance(local, ReplicaModel) else local_wire(local, stored)


def _embeddings(embedder: Embedder) -> EmbeddingsWire:
    """The wire of an embedder: of another process its own, where bytes pass through."""
    return ReplicaEmbeddingsWire(embedder) if isinstance(embedder, ReplicaEmbedder) else EmbeddingsWire(embedder)


def local_wire(local: ChatModel, stored: StoredResponses | None = None) -> WireTarget:
    """The local model on every path that it serves."""
    chat = LocalWire(local)
    return ByPath({"/completions": LocalCompletions(local), "/responses": ResponsesOverChat(chat, stored)}, chat)


def _provider(
    name: str,
    config: ProviderConfig,
    settings: Settings,
    own: Mapping[str, Own],
    trace: TraceHeaders | None,
    connections: Connections | None,
    stored: StoredResponses,
) -> Provider:
    if config.in_process:
        writer = settings.rag_model if config.kind == "rag" else ""
        wire, chat = own[config.kind]
        owns = isinstance(chat, OwnQueue)
        if isinstance(chat, ReplicaModel):
            # the queue is the other process's
            queue = Admission(MANY_CALLS, MANY_CALLS, config.queue_timeout)
            return Provider(name, config, _with_messages(wire, config, chat), chat, queue, writer, own_queue=True)
        admission = chat.admission if isinstance(chat, OwnQueue) else _admission(name, config, settings)
        counter = chat if config.kind == "local" and isinstance(chat, Writer) else None
        return Provider(name, config, _with_messages(wire, config, counter), chat, admission, writer, owns)
    admission = _admission(name, config, settings)
    if config.kind == "replicas":
        return _replicas(name, config, settings, trace, admission)
    key = _key(config.api_key_env, settings).get_secret_value()
    upstream = HttpTarget(config, key, trace, connections)
    if config.kind == "anthropic":
        chat_wire = ChatOverMessages(upstream)
        responses = ResponsesOverChat(chat_wire, stored)
        paths: dict[str, WireTarget] = {"/chat/completions": chat_wire, "/responses": responses}
        messages = ByPath({"/messages": upstream, "/messages/count_tokens": upstream, **paths})
        return Provider(name, config, messages, WireModel(name, chat_wire), admission)
    wire = _with_messages(_with_responses(name, config, upstream, stored), config)
    passage = Passage(config, key, trace, connections)
    return Provider(name, config, wire, WireModel(name, upstream), admission, passage=passage)


def _boundary(config: ProviderConfig, settings: Settings) -> Boundary | None:
    """How far away a provider is; None of documents and agents, which ask other models and tools."""
    if config.prefix:
        return None
    if config.in_process and not settings.local_url:
        return "machine"
    return boundary_of(config.addresses or [config.base_url or settings.local_url])


def _replicas(
    name: str, config: ProviderConfig, settings: Settings, trace: TraceHeaders | None, admission: Admission
) -> Provider:
    """A provider of processes that hold models; the fleet's secret opens them, unless the file names another."""
    variable = config.api_key_env or SECRET_VARIABLE
    secret = settings.fleet_secret if variable == SECRET_VARIABLE else _key(variable, settings)
    timeouts = config.timeouts if "timeouts" in config.model_fields_set else PATIENT
    member = config.model_copy(update={"api_key_env": variable, "timeouts": timeouts})
    target = ReplicaTarget(ReplicaSet(member, secret.get_secret_value(), trace))
    chat = ReplicaModel(target)
    return Provider(name, config, _with_messages(target, config, chat), chat, admission)


def _with_messages(wire: WireTarget, config: ProviderConfig, counter: Writer | None = None) -> WireTarget:
    """The wire with Anthropic's messages too, made from its chat completions."""
    messages = MessagesOverChat(wire, in_process=config.kind in ("local", "replicas"), counter=counter)
    return ByPath({"/messages": messages}, wire)


def _more_embedders(config: GatewayConfig, settings: Settings, embedders: Iterable[Embedder]) -> Iterator[Provider]:
    """A provider for each, on the terms of the first embedder's; none where that is not offered.

    Its name cannot be one of the file's, which has no slash in the names of its own embedders.
    """
    first = next((provider for provider in config.providers.values() if provider.kind == "embedder"), None)
    if first is None:
        return
    for embedder in embedders:
        wire, name = _embeddings(embedder), f"embedder/{embedder.name}"
        yield Provider(name, first, wire, wire, _admission(name, first, settings))


def _admission(name: str, config: ProviderConfig, settings: Settings) -> Admission:
    """The queue of a provider whose calls the gateway admits."""
    if config.kind != "local":
        return Admission(config.max_concurrency, config.queue_size, config.queue_timeout, f"The provider {name}")
    return Admission(*_local_bounds([config], settings))


def _local_bounds(providers: Iterable[ProviderConfig], settings: Settings) -> tuple[int, int, float]:
    """Slots, queue and seconds of the local model: the settings', or what the routing file has (of several, the least).

    The routing file may not allow more slots than there are.
    """
    local = [provider for provider in providers if provider.kind == "local"]
    sizes = [provider.queue_size for provider in local if "queue_size" in provider.model_fields_set]
    waits = [provider.queue_timeout for provider in local if "queue_timeout" in provider.model_fields_set]
    return (
        min([settings.local_slots, *(provider.max_concurrency for provider in local)]),
        min(sizes, default=settings.local_queue_size),
        min(waits, default=settings.local_queue_timeout),
    )


def _with_responses(name: str, config: ProviderConfig, upstream: WireTarget, stored: StoredResponses) -> WireTarget:
    if config.responses == "native":
        return upstream
    responses: WireTarget = ResponsesOverChat(upstream, stored)
    if config.responses == "auto":
        responses = ResponsesEitherWay(upstream, responses, name)
    return ByPath({"/responses": responses}, upstream)


def _key(variable: str, settings: Settings) -> SecretStr:
    """The key that a provider's ``api_key_env`` names: from the environment, or from `.env` as every setting."""
    return settings.openai_api_key if variable == KEY_VARIABLE else SecretStr(setting_of(variable, settings))


def setting_of(name: str, settings: Settings) -> str:
    env_file = settings.model_config.get("env_file")
    written = dotenv_values(env_file) if isinstance(env_file, str) else {}
    return os.environ.get(name) or written.get(name) or ""
