"""Keys in the database: made, listed, rotated, revoked and looked up. What is kept of a key cannot be turned back."""

import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any, TypeVar

from apps.core.callers import Budget, Caller
from apps.core.errors import NotFound
from apps.operations.database import Database
from apps.operations.group_commit import Work
from apps.operations.key_terms import KeyTerms, digest_of, new_key, parse_budget, parse_expiry, shown_prefix

if TYPE_CHECKING:
    from apps.operations.tables import KeyStatements

T = TypeVar("T")
Row = Mapping[str, Any]
KeyWork = Callable[["KeyStatements"], Awaitable[T]]
ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is kept, without its digest. Times are seconds since 1970."""

    id: str
    prefix: str
    caller: Caller
    networks: tuple[IPv4Network | IPv6Network, ...]
    created_at: float
    rotated_at: float | None
    expires_at: float | None
    revoked_at: float | None


@dataclass(frozen=True, slots=True)
class KeysState:
    """``number`` grows with every change; ``exist`` says whether any key was ever made."""

    number: int
    exist: bool


class KeyStore:
    """``secret`` is asked for when it is first needed, since it may have to be made; ``changed`` hears of changes."""

    def __init__(self, database: Database, secret: Callable[[], bytes]) -> None:
        self._database = database
        self._make_secret = secret
        self._secret: bytes | None = None
        self.changed: Callable[[int], None] = lambda number: None

    def digest(self, key: str) -> bytes:
        if self._secret is None:
            self._secret = self._make_secret()
        return digest_of(key, self._secret)

    async def create(self, terms: KeyTerms) -> tuple[StoredKey, str]:
        """The new key as it is stored, and the key itself, which cannot be read again."""
        key, id = new_key(), secrets.token_hex(ID_BYTES)
        values = {**_columns(terms, id), **self._columns_of(key)}
        return await self._changed(lambda keys: keys.insert(values)), key

    async def rotate(self, id: str) -> tuple[StoredKey, str]:
        """A new key on the old terms; the old one is void at once. Raises NotFound, also for a revoked one."""
        key = new_key()
        return await self._update(id, {**self._columns_of(key), "rotated_at": time.time()}), key

    async def revoke(self, id: str) -> StoredKey:
        """Raises NotFound for an id of no live key."""
        return await self._update(id, {"revoked_at": time.time()})

    async def all(self) -> list[StoredKey]:
        """The oldest first, the revoked ones among them."""
        rows = await self._database.read(_with_statements(lambda keys: keys.all()))
        return [_stored(row) for row in rows]

    async def find(self, key: str) -> tuple[StoredKey | None, KeysState]:
        """The live key, if this is one; and the state of all of them at that moment."""
        digest = self.digest(key)
        row, state = await self._database.read(_with_statements(lambda keys: keys.find(digest, time.time())))
        found = row is not None and hmac.compare_digest(row["digest"], digest)
        return (_stored(row) if row is not None and found else None), KeysState(*state)

    async def state(self) -> KeysState:
        return KeysState(*await self._database.read(_with_statements(lambda keys: keys.state())))

    def _columns_of(self, key: str) -> dict[str, Any]:
        return {"digest": self.digest(key), "prefix": shown_prefix(key)}

    async def _update(self, id: str, values: dict[str, Any]) -> StoredKey:
        return await self._changed(lambda keys: keys.update(id, values))

    async def _changed(self, work: KeyWork[tuple[Row | None, int]]) -> StoredKey:
        row, number = await self._database.write(_with_statements(work))
        if row is None:
            raise NotFound("No live key has this id", field="id")
        self.changed(number)
        return _stored(row)


def _with_statements(work: KeyWork[T]) -> Work[T]:
    # needs SQLAlchemy, which is there once a database is open
    from apps.operations.tables import KeyStatements

    return lambda connection: work(KeyStatements(connection))


def _columns(terms: KeyTerms, id: str) -> dict[str, Any]:
    now = time.time()
    budget = parse_budget(terms.budget_usd) if terms.budget_usd else None
    return {
        "id": id,
        "name": terms.name,
        "tenant": terms.tenant or f"key:{id}",
        "models": json.dumps(terms.models),
        "routes": json.dumps(terms.routes),
        "networks": json.dumps(terms.ip),
        "admin": terms.admin,
        "requests_per_minute": terms.rpm,
        "tokens_per_minute": terms.tpm,
        "budget_usd": budget.usd if budget else None,
        "budget_period": budget.period if budget else None,
        "semantic_cache": terms.semantic_cache,
        "created_at": now,
        "expires_at": parse_expiry(terms.expires, now) if terms.expires else None,
    }


def _stored(row: Row) -> StoredKey:
    caller = Caller(
        tenant=row["tenant"],
        key_id=row["id"],
        name=row["name"],
        models=tuple(json.loads(row["models"])),
        routes=tuple(json.loads(row["routes"])),
        admin=row["admin"],
        requests_per_minute=row["requests_per_minute"],
        tokens_per_minute=row["tokens_per_minute"],
        budget=None if row["budget_usd"] is None else Budget(row["budget_usd"], row["budget_period"]),
        semantic_cache=row["semantic_cache"],
    )
    times = {name: row[name] for name in ("created_at", "rotated_at", "expires_at", "revoked_at")}
    networks = tuple(ip_network(network) for network in json.loads(row["networks"]))
    return StoredKey(row["id"], row["prefix"], caller, networks, **times)
