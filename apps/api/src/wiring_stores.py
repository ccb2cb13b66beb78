"""What is kept, by the settings: the database with its keys, tokens of an issuer, the response cache."""

from pathlib import Path

from apps.core.ports import Embedder
from apps.core.settings import Settings
from apps.models.cache.disk_store import DiskStore
from apps.models.cache.guarded_store import GuardedStore
from apps.models.cache.memory_store import MemoryStore
from apps.models.cache.redis_store import RedisStore
from apps.models.cache.response_cache import LARGEST, ResponseCache
from apps.models.cache.semantic import SemanticIndex
from apps.models.cache.store import Store
from apps.operations.bearer_tokens import BearerTokens
from apps.operations.database import Database
from apps.operations.jwks import Jwks
from apps.operations.key_secrets import server_secret
from apps.operations.key_store import KeyStore

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
