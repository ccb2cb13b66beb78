"""What is kept and counted, put together by the settings.

What documents need: their embedder, the library, and who writes from it. What is kept: the database with its keys,
tokens of an issuer, the response cache. What is counted, written down and charged for: limits, the ledger and budgets;
and their numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apps.api.src.limits.limiter import RateLimits, TokenLimits
from apps.cache.response_cache import LARGEST, ResponseCache, SemanticIndex
from apps.cache.store import DiskStore, GuardedStore, MemoryStore, Store
from apps.core.calls import Bookkeeper
from apps.core.ports import ChatModel, Embedder, Observation, Reranker
from apps.core.settings import Settings
from apps.gateway.gateway import Gateway, GatewayModel
from apps.gateway.openai_api.chat_completions import LocalWire
from apps.gateway.protocol import WireTarget
from apps.gateway.replicas.retrieval import ReplicaEmbedder, ReplicaReranker
from apps.gateway.replicas.target import ReplicaTarget
from apps.gateway.upstream.http_target import ByPath
from apps.local.encoders.embedder import LocalEmbedder, MiniLM, embedders
from apps.local.encoders.reranker import LocalReranker
from apps.models.upstream_retrieval import OpenAIEmbedder, UpstreamReranker
from apps.operations.budgets import Budgets
from apps.operations.database import Database
from apps.operations.journal import Journal
from apps.operations.key_store import KeyStore
from apps.operations.key_terms import server_secret
from apps.operations.ledger import Ledger, Retention
from apps.rag.answering import RagModels
from apps.rag.library import Library
from apps.transport.client import Connections

if TYPE_CHECKING:
    from apps.operations.bearer_tokens import BearerTokens

Placed = LocalEmbedder | ReplicaEmbedder
"""An embedding model of this machine: in this process, or in the one that has the models."""


class EmbeddingModels:
    """Those of this machine: all-MiniLM-L6-v2 (``first``) and the ``others`` of EMBEDDING_MODELS; none is loaded.

    They are in the process that ``elsewhere`` leads to, where that is given. Raises SettingsError for a folder of
    EMBEDDING_MODELS that is no embedding model.
    """

    def __init__(self, settings: Settings, elsewhere: ReplicaTarget | None = None) -> None:
        here = [MiniLM(), *embedders(settings.embedding_models)]
        # passages are cut by the tokenizer alone, which has no weights
        self._tokenizers = {one.name: one.tokenizer_file for one in here}
        self.first, *self.others = (_placed(one, elsewhere) for one in here)

    def of_documents(self, settings: Settings, connections: Connections | None) -> tuple[Embedder, Path | None]:
        """The embedder of collections of documents, and its tokenizer.json where there is one."""
        for other in self.others:
            if other.name == settings.rag_embedding_model:
                return other, self._tokenizers[other.name]
        if settings.rag_embedding_model:
            return OpenAIEmbedder(settings, connections), None
        return self.first, self._tokenizers[self.first.name]


def _placed(embedder: LocalEmbedder, elsewhere: ReplicaTarget | None) -> Placed:
    if elsewhere is None:
        return embedder
    return ReplicaEmbedder(elsewhere, embedder.name, embedder.dimensions, embedder.longest)


def chosen_embedder(
    settings: Settings, connections: Connections | None = None, elsewhere: ReplicaTarget | None = None
) -> tuple[Embedder, Path | None]:
    """The embedder of collections of documents, and its tokenizer.json where there is one."""
    return EmbeddingModels(settings, elsewhere).of_documents(settings, connections)


@dataclass(frozen=True, slots=True)
class Documents:
    """The library of documents, and answers from it."""

    library: Library
    embedder: Embedder
    answers: RagModels

    def wire(self) -> WireTarget:
        """The answers on the one path of OpenAI's API that they serve."""
        return ByPath({"/chat/completions": LocalWire(self.answers, asks_others=True)})


def chosen_reranker(
    settings: Settings, connections: Connections | None = None, elsewhere: ReplicaTarget | None = None
) -> Reranker | None:
    """None where RERANK_MODEL is empty. A local one is where ``elsewhere`` leads, if that is given."""
    if not settings.rerank_model:
        return None
    if settings.rerank_base_url:
        return UpstreamReranker(settings, connections)
    local = LocalReranker(settings.rerank_model)
    return local if elsewhere is None else ReplicaReranker(elsewhere, local.name)


def open_documents(
    settings: Settings,
    gateway: Gateway,
    local: ChatModel,
    connections: Connections | None = None,
    reranker: Reranker | None = None,
    models: EmbeddingModels | None = None,
    database: Database | None = None,
) -> Documents:
    """The documents. Their embedder is one of ``models`` where it is of this machine, and is loaded once."""
    embeds, tokenizer = (models or EmbeddingModels(settings)).of_documents(settings, connections)
    library = Library.from_settings(settings, embeds, tokenizer=tokenizer, reranker=reranker, database=database)
    return build_documents(settings, gateway, local, embeds, library)


def build_documents(
    settings: Settings, gateway: Gateway, local: ChatModel, embedder: Embedder, library: Library
) -> Documents:
    writer = GatewayModel(gateway, settings.rag_model, local, settings.rag_context_tokens)
    return Documents(library, embedder, RagModels(library, writer, settings.rag_min_score, settings.rag_quote_below))


REDIS_SECONDS = 0.2


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
        from apps.cache.redis_store import RedisStore  # Redis's client, which a start without it does not need

        store = GuardedStore(RedisStore(settings.cache_storage, REDIS_SECONDS), "Redis", longest=REDIS_SECONDS)
    largest = LARGEST if kind.startswith("redis") else min(LARGEST, most // 4)
    return ResponseCache(store, settings.cache_ttl, SemanticIndex(embedder) if embedder else None, largest)


def build_database(settings: Settings) -> Database:
    return Database(settings.database_url.get_secret_value(), settings.data_dir, settings.database_timeout)


def build_key_store(settings: Settings, database: Database) -> KeyStore:
    return KeyStore(database, lambda: server_secret(settings.secret_key.get_secret_value(), settings.data_dir))


def build_tokens(settings: Settings, connections: Connections | None = None) -> "BearerTokens | None":
    if not settings.oidc_issuer:
        return None
    # jwt with cryptography takes a twelfth of a second
    from apps.operations.bearer_tokens import BearerTokens, Jwks

    return BearerTokens(
        Jwks(settings.oidc_issuer, settings.oidc_jwks_url, connections=connections),
        settings.oidc_issuer,
        settings.oidc_audience,
        settings.oidc_algorithms,
        settings.oidc_tenant_claim,
        settings.oidc_scope_claim,
    )


@dataclass(frozen=True, slots=True)
class Accounts:
    """An Observed. Without a database there are limits, and neither ledger nor budgets."""

    limits: RateLimits
    ledger: Ledger | None = None
    budgets: Budgets | None = None
    retention: Retention | None = None

    def bookkeepers(self) -> list[Bookkeeper]:
        """The ledger first, so that it has what the others refuse; budgets last, so that those reserve nothing."""
        bookkeepers: list[Bookkeeper | None] = [self.ledger, TokenLimits(self.limits.counts), self.budgets]
        return [book for book in bookkeepers if book is not None]

    async def start(self) -> None:
        await self.limits.counts.start()
        if self.ledger is not None:
            await self.ledger.start()
        if self.retention is not None:
            await self.retention.start()

    async def aclose(self) -> None:
        if self.retention is not None:
            await self.retention.aclose()
        if self.ledger is not None:
            await self.ledger.aclose()
        await self.limits.counts.aclose()

    def observations(self) -> Iterator[Observation]:
        counts = self.limits.counts.state()
        if counts.shared:
            yield _gauge("genai_rate_limit_degraded", "1 while the shared store does not count", counts.degraded)
            yield _gauge("genai_rate_limit_processes", "Processes that share the limits", counts.processes)
            yield _counter("genai_rate_limit_outages_total", "Times that the shared store failed", counts.outages)
            yield _counter(
                "genai_rate_limit_local_hits_total", "Requests counted by a local share of a limit", counts.local_hits
            )
        if self.ledger is not None:
            rows = self.ledger.state()
            yield _gauge("genai_ledger_waiting", "Calls that are not in the ledger yet", rows.waiting)
            yield _gauge("genai_budget_reservations", "Calls under way that hold a part of a budget", rows.reservations)
            yield _counter("genai_ledger_written_total", "Calls written to the ledger", rows.written)
            yield _counter("genai_ledger_lost_total", "Calls that the ledger could not take", rows.lost)
            yield _counter("genai_ledger_replayed_total", "Calls of dead processes that the journal had", rows.replayed)
            text = "Times that the ledger's journal could not be written"
            yield _counter("genai_ledger_journal_failures_total", text, rows.journal_failures)
            folded = self.retention.folded if self.retention is not None else 0
            yield _counter("genai_ledger_folded_total", "Old rows that were replaced by sums of their day", folded)
        if self.budgets is not None:
            refused, text = self.budgets.state(), "Calls refused before they were made, by the reason"
            name = "genai_budget_refused_total"
            yield _counter(name, text, refused.exhausted, reason="exhausted")
            yield _counter(name, text, refused.unavailable, reason="unavailable")


def build_accounts(settings: Settings, database: Database | None) -> Accounts:
    limits = RateLimits(settings)
    if database is None:
        return Accounts(limits)
    ledger = Ledger(
        database,
        journal=None if settings.ledger_journal == "off" else Journal(settings.data_dir / "journal"),
        journal_required=settings.ledger_journal == "required",
        writers=settings.api_workers,
    )
    days = settings.ledger_retention_days
    return Accounts(limits, ledger, Budgets(database, ledger), Retention(database, days) if days else None)


def _gauge(name: str, text: str, value: float) -> Observation:
    return Observation(name, text, float(value))


def _counter(name: str, text: str, value: float, **labels: str) -> Observation:
    return Observation(name, text, float(value), "counter", labels)
